// Package browser starts a headless Chromium and runs scripts in it that use web
// pages as people do, with Playwright's API.
package browser

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/node"
	"github.com/authsec-ai/icp/e2e/stage/pki"
)

//go:embed run.mjs
var module string

// Browser is a Chromium with a profile of its own. It finds no host but those
// named by IP address and localhost.
type Browser struct {
	Version string // 1.2.3.4
	Process *stage.Process

	endpoint string // of the DevTools protocol
}

// Start starts a browser, which trusts certificates of the authorities, too.
func Start(t stage.T, authorities ...*pki.Authority) *Browser {
	t.Helper()
	home := stage.Folder(t)
	trust(t, home, authorities)
	profile := filepath.Join(home, "profile")
	cmd := exec.Command(stage.Find(t, "ICP_TEST_CHROMIUM", "chromium"), append(flags(), "--user-data-dir="+profile)...)
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home, "DBUS_SESSION_BUS_ADDRESS=disabled:")
	b := &Browser{Process: stage.Start(t, "chromium", cmd)}
	b.Process.WaitReady(t, time.Minute, func() error { return b.connect(filepath.Join(profile, "DevToolsActivePort")) })
	return b
}

func flags() []string {
	return []string{
		"--headless", "--no-sandbox", // which root can't have
		"--remote-debugging-port=0", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1, EXCLUDE [::1]",
		"--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--disable-breakpad", "--disable-sync", "--disable-extensions",
		"--disable-background-networking", "--disable-component-update", "--no-first-run", "--password-store=basic",
		"--log-level=3", // it misses D-Bus at great length
	}
}

// connect finds the browser's port in the file that it writes.
func (b *Browser) connect(portFile string) error {
	raw, err := os.ReadFile(portFile)
	if err != nil {
		return err
	}
	port, _, _ := strings.Cut(string(raw), "\n")
	b.endpoint = "http://127.0.0.1:" + port
	resp, err := http.Get(b.endpoint + "/json/version")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var about struct{ Browser string }
	if err := json.NewDecoder(resp.Body).Decode(&about); err != nil {
		return err
	}
	_, b.Version, _ = strings.Cut(about.Browser, "/") // HeadlessChrome/1.2.3.4
	if b.Version == "" {
		return fmt.Errorf("the browser says that it is %q", about.Browser)
	}
	return nil
}

// trust adds authorities to those of the browser whose home it is.
func trust(t stage.T, home string, authorities []*pki.Authority) {
	t.Helper()
	if len(authorities) == 0 {
		return
	}
	certutil, dir := stage.Find(t, "ICP_TEST_CERTUTIL", "certutil"), filepath.Join(home, ".pki", "nssdb")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatalf("make the browser's certificate store: %v", err)
	}
	stage.Output(t, exec.Command(certutil, "-d", "sql:"+dir, "-N", "--empty-password"))
	for i, a := range authorities {
		stage.Output(t, exec.Command(certutil, "-d", "sql:"+dir, "-A", "-n", fmt.Sprint(i), "-t", "C,,", "-i", a.File(t)))
	}
}

// patience bounds each step of a script, and a multiple of it the whole.
const patience = 30 * time.Second

// Run runs the body of an asynchronous JavaScript function and decodes the JSON
// of what it returns into result, unless that is nil. The script has
//
//	page              a fresh Playwright page, with cookies of its own
//	open(options)     another, with options of Playwright's newContext
//	env               what the caller gives, such as addresses
//	assert            node's strict assert
//	expectError(/…/)  says that pages will have such an error
//	browser           Playwright's browser
//
// An exception fails the test, as does an error in a page that was not expected:
// one in its console, in its scripts, or a request that failed; and one that was
// expected and did not come.
func (b *Browser) Run(t stage.T, script string, env map[string]string, result any) {
	t.Helper()
	cmd := node.Command(t, module)
	input, err := json.Marshal(map[string]any{
		"endpoint": b.endpoint, "env": env, "script": script, "patience": patience.Milliseconds(),
	})
	if err != nil {
		t.Fatalf("run a script in the browser: %v", err)
	}
	cmd.Stdin = bytes.NewReader(input)
	p := stage.Start(t, "script", cmd)
	select {
	case <-p.Done():
	case <-time.After(10 * patience):
		p.Kill()
		t.Fatalf("the script has not ended after %s; it printed:\n%s", 10*patience, p.Tail(4096))
	}
	if err := decode(p, filepath.Join(cmd.Dir, "result.json"), result); err != nil {
		t.Fatalf("the script in the browser: %v", err)
	}
}

func decode(p *stage.Process, file string, result any) error {
	if err := p.Err(); err != nil {
		return errors.New(p.Tail(8192))
	}
	raw, err := os.ReadFile(file)
	if err != nil || result == nil {
		return err
	}
	return json.Unmarshal(raw, result)
}
