package python

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/authsec-ai/icp/e2e/devtest"
	"github.com/authsec-ai/icp/e2e/stage"
)

// workload is the Python program, for one story.
type workload struct {
	*stage.Process
	lines *bufio.Scanner // what it tells
	in    io.WriteCloser // its end, or a line, has the story go on
}

// start runs a story. Without env the socket's address comes by environment.
func start(t *testing.T, d *devtest.Dev, env []string, story string, args ...string) *workload {
	t.Helper()
	root := stage.Root(t)
	python := stage.Find(t, "ICP_PYTHON", filepath.Join(root, ".work/venv/bin/python"))
	cmd := exec.Command(python, append([]string{filepath.Join(root, "e2e/python/testdata/workload.py"), story}, args...)...)
	if env == nil {
		env = []string{"SPIFFE_ENDPOINT_SOCKET=" + d.AgentSocket}
	}
	dir := t.TempDir()
	cmd.Env = append(env, "PYTHONPATH="+filepath.Join(root, "sdk/python"), "PYTHONDONTWRITEBYTECODE=1", "HOME="+dir, "TMPDIR="+dir)
	cmd.Dir = dir
	out, tell, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	listen, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	cmd.Stdin, cmd.Stdout = listen, tell
	w := &workload{Process: stage.Start(t, "python", cmd), lines: bufio.NewScanner(out), in: in}
	tell.Close()
	listen.Close()
	w.lines.Buffer(nil, 1<<20)
	return w
}

// told reads the next thing the program tells.
func told[T any](t *testing.T, w *workload) T {
	t.Helper()
	var what T
	if !w.lines.Scan() {
		t.Fatalf("the program told nothing (%v):\n%s", w.Err(), w.Tail(4096))
	}
	if err := json.Unmarshal(w.lines.Bytes(), &what); err != nil {
		t.Fatalf("the program told %q: %v", w.lines.Text(), err)
	}
	return what
}

// done lets the program end, which must be well.
func (w *workload) done(t *testing.T) {
	t.Helper()
	w.in.Close()
	if err := w.Err(); err != nil {
		t.Errorf("the program ended with %v:\n%s", err, w.Tail(4096))
	}
}

// story runs one that tells one thing.
func story[T any](t *testing.T, d *devtest.Dev, name string, args ...string) T {
	t.Helper()
	w := start(t, d, nil, name, args...)
	what := told[T](t, w)
	w.done(t)
	return what
}

func TestSDK(t *testing.T) {
	d := devtest.Start(t)
	t.Run("SK-2", func(t *testing.T) { byEnvironment(t, d) })
	t.Run("SK-3", func(t *testing.T) { byArgument(t, d) })
	t.Run("SK-4", func(t *testing.T) { throughProxy(t, d) })
	t.Run("SK-7", func(t *testing.T) { serves(t, d) })
	t.Run("SK-9", func(t *testing.T) { memoryOnly(t, d) })
	t.Run("SK-10", func(t *testing.T) { refusesStrangers(t, d) })
	t.Run("SK-13", func(t *testing.T) { tokens(t, d) })
	t.Run("SK-14", func(t *testing.T) { readme(t, d) })
	shortLived(t, d) // from here on
	t.Run("SK-6", func(t *testing.T) { writesFiles(t, d) })
	t.Run("SK-11", func(t *testing.T) { rotates(t, d) })
}

type identity struct {
	SPIFFEID    string `json:"spiffe_id"`
	Certificate string
	Bundle      string
}

func (i identity) check(t *testing.T, d *devtest.Dev) {
	t.Helper()
	if i.SPIFFEID != d.ID("/dev") || strings.Count(i.Certificate, "BEGIN CERTIFICATE") != 2 || strings.Count(i.Bundle, "BEGIN CERTIFICATE") != 1 {
		t.Errorf("the workload is %+v; want /dev, with leaf and issuing authority, and one anchor", i)
	}
}

func byEnvironment(t *testing.T, d *devtest.Dev) {
	for name, value := range map[string]string{"URI": d.AgentSocket, "bare path": strings.TrimPrefix(d.AgentSocket, "unix://")} {
		t.Run(name, func(t *testing.T) {
			w := start(t, d, []string{"SPIFFE_ENDPOINT_SOCKET=" + value}, "initialize")
			told[identity](t, w).check(t, d)
			w.done(t)
		})
	}
}

func byArgument(t *testing.T, d *devtest.Dev) {
	for name, env := range map[string][]string{
		"no environment":      {},
		"against environment": {"SPIFFE_ENDPOINT_SOCKET=unix:///nowhere/agent.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, d, env, "initialize", d.AgentSocket)
			told[identity](t, w).check(t, d)
			w.done(t)
		})
	}
	t.Run("no agent", func(t *testing.T) {
		w := start(t, d, []string{}, "nobody", "/nowhere/agent.sock")
		what := told[struct {
			Error   string
			Seconds float64
		}](t, w)
		w.done(t)
		if !strings.Contains(what.Error, "unix:///nowhere/agent.sock") || !strings.Contains(what.Error, "icp entry list") {
			t.Errorf("the error is %q; want the address and what to do", what.Error)
		}
		if what.Seconds > 30 { // five, as its documentation says, on a busy machine
			t.Errorf("it took %.1f s", what.Seconds)
		}
	})
	t.Run("tcp", func(t *testing.T) {
		w := start(t, d, []string{}, "tcp")
		what := told[struct{ Warnings []string }](t, w)
		w.done(t)
		if !strings.Contains(strings.Join(what.Warnings, "\n"), "cannot see which process is calling") {
			t.Errorf("the warnings are %q", what.Warnings)
		}
	})
}

// answer is what came of one request.
type answer struct {
	Status  int
	Hash    string // of the workload's certificate, SHA-256
	Refused string // by the SDK, and why
	Error   string
	Body    struct {
		Header map[string][]string
	}
}

// TestRestart kills the agent under a workload and starts it again.
func TestRestart(t *testing.T) {
	dir := filepath.Join(stage.Folder(t), "dev")
	d := devtest.StartOn(t, dir)
	w := start(t, d, nil, "reconnect", d.ProxyURL+"/echo", d.ProxyID())
	type state struct {
		Serial string
		Status int
	}
	before := told[state](t, w)
	d.Kill()
	devtest.StartOn(t, dir)
	if _, err := io.WriteString(w.in, "\n"); err != nil {
		t.Fatal(err)
	}
	after := told[state](t, w)
	w.done(t)
	if after.Serial == before.Serial || after.Status != http.StatusOK {
		t.Errorf("it had %+v and has %+v; want a new certificate, and 200 with it", before, after)
	}
}

// TestLateAgent starts the workload first.
func TestLateAgent(t *testing.T) {
	dir := filepath.Join(stage.Folder(t), "dev")
	w := start(t, nil, []string{"SPIFFE_ENDPOINT_SOCKET=unix://" + dir + "/agent.sock"}, "initialize")
	d := devtest.StartOn(t, dir)
	told[identity](t, w).check(t, d)
	w.done(t)
}

func throughProxy(t *testing.T, d *devtest.Dev) {
	got := story[answer](t, d, "get", d.ProxyURL+"/echo", d.ProxyID())
	xfcc := strings.Join(got.Body.Header["X-Forwarded-Client-Cert"], " ")
	if got.Status != http.StatusOK || !strings.Contains(xfcc, "Hash="+got.Hash) || !strings.Contains(xfcc, d.ID("/dev")) {
		t.Errorf("through the proxy: %+v; want 200, seen with our certificate", got)
	}
	reached := story[map[string]any](t, d, "authorizers", d.ProxyURL+"/echo", d.ProxyID())
	for way, status := range map[string]float64{"list": 200, "set": 200, "function": 200, "anybody": 200,
		"other_list": 0, "empty": 0, "no_function": 0, "prefix": 0} {
		if reached[way] != status {
			t.Errorf("authorize by %s: got %v, want %v (0 is refused)", way, reached[way], status)
		}
	}
	if warned, _ := reached["warned"].([]any); len(warned) != 1 {
		t.Errorf("without authorize it warned %v, want one warning", warned)
	}
}

// refusesStrangers puts a server of the same trust domain with another ID in
// the right one's place, and looks whether a byte of the request reaches it.
func refusesStrangers(t *testing.T, d *devtest.Dev) {
	for name, authorize := range map[string]string{"refused": d.ProxyID(), "twin": d.ID("/impostor")} {
		t.Run(name, func(t *testing.T) {
			url, received := impostor(t, d)
			got := story[answer](t, d, "get", url, authorize)
			bytes := <-received
			if name == "twin" {
				if got.Status != http.StatusOK || bytes == 0 {
					t.Errorf("got %+v after %d bytes, want 200", got, bytes)
				}
				return
			}
			if !strings.Contains(got.Refused, d.ID("/impostor")) || !strings.Contains(got.Refused, "not authorized") || bytes != 0 {
				t.Errorf("got %+v, and the server %d bytes; want a refusal that names it before any byte", got, bytes)
			}
		})
	}
}

// impostor serves one connection and tells how many bytes of a request it got.
func impostor(t *testing.T, d *devtest.Dev) (url string, received <-chan int) {
	t.Helper()
	source := sourceOf(t, d, "/impostor")
	l, err := tls.Listen("tcp", "127.0.0.1:0", tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeAny()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	count := make(chan int, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			count <- -1
			return
		}
		defer conn.Close()
		buffer := make([]byte, 64<<10)
		n, err := conn.Read(buffer)
		if err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}") // the story tells
		}
		count <- n
	}()
	return "https://" + l.Addr().String() + "/", count
}

// sourceOf gives an identity of this process beside its default one.
func sourceOf(t *testing.T, d *devtest.Dev, path string) *workloadapi.X509Source {
	t.Helper()
	pick := func(svids []*x509svid.SVID) *x509svid.SVID {
		for _, svid := range svids {
			if svid.ID.Path() == path {
				return svid
			}
		}
		return svids[0]
	}
	source, err := workloadapi.NewX509Source(t.Context(),
		workloadapi.WithClientOptions(workloadapi.WithAddr(d.AgentSocket)), workloadapi.WithDefaultX509SVIDPicker(pick))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { source.Close() })
	if svid, err := source.GetX509SVID(); err == nil && svid.ID.Path() != path {
		d.Entry(t, path, os.Getuid(), "")
	}
	stage.Eventually(t, devtest.Patience, func() error {
		svid, err := source.GetX509SVID()
		if err == nil && svid.ID.Path() != path {
			err = fmt.Errorf("the identity is still %s", svid.ID)
		}
		return err
	})
	return source
}

// serves has clients of several kinds call a server in Python.
func serves(t *testing.T, d *devtest.Dev) {
	w := start(t, d, nil, "serve", d.ID("/caller"))
	port := told[struct{ Port int }](t, w).Port
	right, wrong := sourceOf(t, d, "/caller"), sourceOf(t, d, "/intruder")
	server := tlsconfig.AuthorizeID(spiffeid.RequireFromString(d.ID("/dev")))
	call := func(config *tls.Config) error {
		client := http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: devtest.Patience}
		resp, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/", port))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ok" {
			return fmt.Errorf("got %q, %v", body, err)
		}
		return nil
	}
	t.Run("refused/no certificate", func(t *testing.T) {
		if call(tlsconfig.TLSClientConfig(right, server)) == nil {
			t.Error("it was served")
		}
	})
	t.Run("refused/another ID", func(t *testing.T) {
		if call(tlsconfig.MTLSClientConfig(wrong, wrong, server)) == nil {
			t.Error("it was served")
		}
		stage.Eventually(t, devtest.Patience, func() error {
			return said(w, "the peer is "+d.ID("/intruder")+", which is not authorized here")
		})
	})
	t.Run("twin", func(t *testing.T) {
		if err := call(tlsconfig.MTLSClientConfig(right, right, server)); err != nil {
			t.Error(err)
		}
	})
	w.done(t)
}

func said(w *workload, text string) error {
	if !strings.Contains(w.Tail(1<<20), text) {
		return fmt.Errorf("the program did not say %q", text)
	}
	return nil
}

func memoryOnly(t *testing.T, d *devtest.Dev) {
	got := story[struct{ Written, Twin, FDs []string }](t, d, "memory_only", d.ProxyURL+"/echo", d.ProxyID())
	if len(got.Written) != 0 {
		t.Errorf("files were opened to write: %q", got.Written)
	}
	if len(got.Twin) != 1 {
		t.Errorf("a file that was written shows as %q; want it alone", got.Twin)
	}
	for _, fd := range got.FDs {
		if strings.Contains(fd, "memfd") {
			t.Errorf("a memory file with the key is still open: %s", fd)
		}
	}
}

// writesFiles looks at the files, once they have been renewed: the identity is
// short-lived by then.
func writesFiles(t *testing.T, d *devtest.Dev) {
	type result struct {
		Paths   []string
		Modes   map[string]string
		Folder  string
		Renewed bool
	}
	dir := filepath.Join(t.TempDir(), "certs")
	got := story[result](t, d, "files", dir)
	want := map[string]string{}
	for _, name := range []string{"key.pem", "cert.pem", "bundle.pem", "svid.key", "svid.crt", "ca.crt"} {
		want[name] = "0o600"
	}
	if fmt.Sprint(got.Paths) != fmt.Sprint([]string{dir + "/key.pem", dir + "/cert.pem", dir + "/bundle.pem"}) {
		t.Errorf("the paths are %q; want key, certificate and bundle in %s", got.Paths, dir)
	}
	if got.Folder != "0o700" || fmt.Sprint(got.Modes) != fmt.Sprint(want) || !got.Renewed {
		t.Errorf("got %+v; want folder 0700, files 0600, renewed", got)
	}
}

func tokens(t *testing.T, d *devtest.Dev) {
	got := story[struct {
		SPIFFEID string `json:"spiffe_id"`
		Claims   struct {
			Sub string
			Aud []string
		}
	}](t, d, "jwt")
	if got.SPIFFEID != d.ID("/dev") || got.Claims.Sub != got.SPIFFEID || len(got.Claims.Aud) != 2 {
		t.Errorf("the token says %+v", got)
	}
}

// readme runs the three lines that the SDK's README shows.
func readme(t *testing.T, d *devtest.Dev) {
	raw, err := os.ReadFile(filepath.Join(stage.Root(t), "sdk/python/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile("(?s)```python\n(.*?)```").FindSubmatch(raw)
	if match == nil {
		t.Fatal("the README shows no sample")
	}
	var sample []string
	for line := range strings.Lines(string(match[1])) {
		if strings.TrimSpace(line) != "" {
			sample = append(sample, line)
		}
	}
	if len(sample) != 3 {
		t.Fatalf("the sample has %d lines, and the README says three", len(sample))
	}
	text := strings.NewReplacer("unix:///run/spire/sockets/agent.sock", d.AgentSocket,
		"spiffe://example.org/payments", d.ProxyID()).Replace(strings.Join(sample, ""))
	got := story[answer](t, d, "sample", text, d.ProxyURL+"/echo")
	if got.Status != http.StatusOK {
		t.Errorf("with the sample's context: %+v, want 200", got)
	}
}

// shortLived lets the default identity live for seconds.
func shortLived(t *testing.T, d *devtest.Dev) {
	t.Helper()
	var list struct{ Items []struct{ ID string } }
	if _, err := d.Admin.Do(t.Context(), http.MethodGet, "/api/v1/workloads?spiffe_id="+d.ID("/dev"), nil, &list); err != nil || len(list.Items) != 1 {
		t.Fatalf("entries of /dev: %+v, %v", list, err)
	}
	if _, err := d.Admin.Do(t.Context(), http.MethodPatch, "/api/v1/workloads/"+list.Items[0].ID, map[string]string{"ttl": "5s"}, nil); err != nil {
		t.Fatal(err)
	}
}

func rotates(t *testing.T, d *devtest.Dev) {
	t.Run("client", func(t *testing.T) {
		got := story[struct {
			Hashes, Serials []string
			Requests        int
		}](t, d, "rotation", d.ProxyURL+"/echo", d.ProxyID())
		distinct := map[string]bool{}
		for _, serial := range got.Serials {
			distinct[serial] = true
		}
		if len(got.Hashes) < 3 || len(distinct) < 3 {
			t.Errorf("the proxy saw %q, the SDK had %q; want three of each", got.Hashes, got.Serials)
		}
		t.Logf("%d requests, 0 failed, %d certificates", got.Requests, len(got.Hashes))
	})
	t.Run("server", func(t *testing.T) {
		w := start(t, d, nil, "serve", d.ID("/caller"))
		addr := fmt.Sprintf("127.0.0.1:%d", told[struct{ Port int }](t, w).Port)
		caller := sourceOf(t, d, "/caller")
		config := tlsconfig.MTLSClientConfig(caller, caller, tlsconfig.AuthorizeID(spiffeid.RequireFromString(d.ID("/dev"))))
		hashes := map[string]bool{}
		stage.Eventually(t, devtest.Patience, func() error {
			cert, err := shown(t.Context(), addr, config)
			if err != nil {
				t.Fatalf("after %d certificates: %v", len(hashes), err)
			}
			sum := sha256.Sum256(cert.Raw)
			hashes[hex.EncodeToString(sum[:])] = true
			if len(hashes) < 3 {
				return fmt.Errorf("%d certificates so far", len(hashes))
			}
			return nil
		})
		w.done(t)
	})
}

// shown gives the certificate that the server at addr shows.
func shown(ctx context.Context, addr string, config *tls.Config) (*x509.Certificate, error) {
	conn, err := (&tls.Dialer{Config: config, NetDialer: &net.Dialer{}}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}
