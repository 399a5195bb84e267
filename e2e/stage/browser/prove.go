package browser

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/pki"
)

// click loads a page, presses its button and tells what the button says then.
const click = `
await page.goto(env.url);
await page.getByRole('button', { name: 'go' }).click();
return page.getByRole('button').textContent();`

// Prove shows that pages are drawn and their scripts run, and that the browser
// checks certificates.
func Prove(t stage.T) stage.Proof {
	t.Helper()
	authority := pki.New(t, "stage web CA")
	plain, secure := site(t, nil), site(t, authority)
	from := time.Now()
	b := Start(t)
	ready := time.Since(from)
	text := func(b *Browser, script, url string) (said string) {
		t.Helper()
		b.Run(t, script, map[string]string{"url": url}, &said)
		return said
	}
	clicked := text(b, click, plain)
	if clicked != "clicked" {
		t.Fatalf("the button says %q after a click; want clicked", clicked)
	}
	refused := text(b, `
expectError(/ERR_CERT_AUTHORITY_INVALID/);
return page.goto(env.url).then(() => 'loaded', (e) => e.message);`, secure)
	const want = "net::ERR_CERT_AUTHORITY_INVALID"
	if !strings.Contains(refused, want) {
		t.Fatalf("a page of an unknown CA: %q; want %s", refused, want)
	}
	ignored := text(b, `page = await open({ ignoreHTTPSErrors: true });`+click, secure)
	known := text(Start(t, authority), click, secure)
	if ignored != "clicked" || known != "clicked" {
		t.Fatalf("with the error ignored the page says %q, with its CA known %q; want clicked", ignored, known)
	}
	return stage.Proof{Version: b.Version, Ready: ready, Fact: fmt.Sprintf(
		"a button's script ran: %q; a page of an unknown CA: %s; error ignored: %q; its CA known: %q", clicked, want, ignored, known)}
}

// site serves a page with a button, by TLS if there is an authority, and gives
// its address.
func site(t stage.T, authority *pki.Authority) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, `<!doctype html><title>Stage</title><button onclick="this.textContent = 'clicked'">go</button>`)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that the browser breaks off
	t.Cleanup(s.Close)
	if authority == nil {
		s.Start()
		return s.URL
	}
	s.TLS = &tls.Config{Certificates: []tls.Certificate{authority.Server(t, "127.0.0.1")}}
	s.StartTLS()
	return s.URL
}
