package browser

import (
	"bytes"
	"fmt"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/oidc"
)

func TestProve(t *testing.T) { t.Log(Prove(t).Fact) }

// serve gives the address of a site with one page; every other path is missing.
func serve(t *testing.T, page string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "visited", Value: "yes"})
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, page)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// TestFailures runs scripts that must fail the test, and the twins that must not.
func TestFailures(t *testing.T) {
	b := Start(t)
	visit, dead := `await page.goto(env.url);`, fmt.Sprintf("http://127.0.0.1:%d/", stage.FreePort(t))
	for name, tt := range map[string]struct{ page, script, want string }{
		"exception":       {"", `throw new Error('oh no')`, "oh no"},
		"console":         {`<script>console.error('broken')</script>`, visit, "console: broken"},
		"script":          {`<script>nothing()</script>`, visit, "nothing is not defined"},
		"missing":         {`<script src="/absent.js"></script>`, visit, "404"},
		"request":         {`<script>fetch('` + dead + `').catch(() => {})</script>`, visit + `await page.waitForLoadState('networkidle');`, "ERR_CONNECTION_REFUSED"},
		"unknown host":    {"", `await page.goto('http://stage.example/')`, "ERR_NAME_NOT_RESOLVED"},
		"absent error":    {"", visit + `expectError(/broken/);`, "/broken/"},
		"another page":    {`<script>console.error('broken')</script>`, `page = await open(); ` + visit, "console: broken"},
		"no such element": {"", visit + `page.setDefaultTimeout(200); await page.getByRole('button').click();`, "Timeout 200ms exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			env := map[string]string{"url": serve(t, tt.page)}
			err := stage.Run(t.Context(), func(s *stage.Session) { b.Run(s, tt.script, env, nil) })
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the script ended with %v; want %q", err, tt.want)
			}
		})
	}
	t.Run("expected", func(t *testing.T) {
		env := map[string]string{"url": serve(t, `<script>console.error('broken')</script>`)}
		b.Run(t, `expectError(/console: broken/); `+visit, env, nil)
	})
}

func TestScreenshot(t *testing.T) {
	env := map[string]string{"url": serve(t, "<h1>Hello"), "shot": filepath.Join(stage.Folder(t), "page.png")}
	var got struct {
		Title  string
		Others int
	}
	Start(t).Run(t, `
await page.goto(env.url);
await page.screenshot({ path: env.shot });
const other = await open();
return { title: await page.textContent('h1'), others: (await other.context().cookies(env.url)).length };`, env, &got)
	if got.Title != "Hello" || got.Others != 0 {
		t.Errorf("got %+v; want the title Hello, and no cookie in another context", got)
	}
	raw, err := os.ReadFile(env["shot"])
	if err != nil {
		t.Fatal(err)
	}
	if shot, err := png.Decode(bytes.NewReader(raw)); err != nil || shot.Bounds().Dx() < 800 {
		t.Errorf("the screenshot: %v, %v", shot, err)
	}
}

// TestSignIn signs a user in as the console of an application would have it.
func TestSignIn(t *testing.T) {
	callback := serve(t, "<h1>Welcome")
	p := oidc.Start(t, oidc.Options{
		Clients: []oidc.Client{{ID: "console", Secret: "s", RedirectURIs: []string{callback + "/"}}},
		Users:   []oidc.User{{Name: "ada"}},
	})
	var back string
	Start(t, p.Authority).Run(t, `
await page.goto(env.authorize + '?' + new URLSearchParams({
  client_id: 'console', response_type: 'code', scope: 'openid', redirect_uri: env.callback + '/', state: 'mine' }));
expectError(/401/);
await page.getByLabel('User').fill('mallory');
await page.getByRole('button', { name: 'Sign in' }).click();
assert.equal(await page.getByRole('alert').textContent(), 'There is no such user.');
await page.getByLabel('User').fill('ada');
await page.getByRole('button', { name: 'Sign in' }).click();
assert.equal(await page.textContent('h1'), 'Welcome');
return page.url();`, map[string]string{"authorize": p.Discovery.AuthorizationEndpoint, "callback": callback}, &back)
	if !strings.HasPrefix(back, callback+"/?code=") || !strings.Contains(back, "state=mine") {
		t.Errorf("the user came back to %s; want %s with a code and the state", back, callback)
	}
}
