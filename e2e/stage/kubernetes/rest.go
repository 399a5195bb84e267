package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// askLimit bounds one question to a server.
const askLimit = time.Minute

// rest asks a server of the cluster over HTTPS.
type rest struct {
	url   string
	admin *http.Client // proves itself by certificate
	guest *http.Client // has none
}

// dialer is what http.Transport connects with.
type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// newREST gives a client of the server at url. A nil dial stands for this host's
// network.
func newREST(t stage.T, url string, p *pki, dial dialer) rest {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(p.path("admin.crt"), p.path("admin.key"))
	if err != nil {
		t.Fatalf("load the administrator's certificate: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(p.cert)
	client := func(certs ...tls.Certificate) *http.Client {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certs}, DialContext: dial}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport, Timeout: askLimit}
	}
	return rest{url: url, admin: client(cert), guest: client()}
}

// do asks with a bearer token or, if that is empty, as the administrator. It sends
// body as JSON unless it is nil, and reads the body of a 2xx into answer unless
// that is nil. It gives the answer's status and body.
func (r rest) do(token, method, path string, body, answer any) (int, string, error) {
	request, err := newRequest(method, r.url+path, body)
	if err != nil {
		return 0, "", err
	}
	who := r.admin
	if token != "" {
		who = r.guest
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := who.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err == nil && answer != nil && response.StatusCode/100 == 2 {
		err = json.Unmarshal(raw, answer)
	}
	if err != nil {
		return 0, "", fmt.Errorf("%s %s: %w", method, path, err)
	}
	return response.StatusCode, string(raw), nil
}

func newRequest(method, url string, body any) (*http.Request, error) {
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(raw)
	}
	request, err := http.NewRequest(method, url, content)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	return request, nil
}

// Do asks the API server, with a bearer token or, if that is empty, as the
// administrator, and gives the answer's status and body. What goes out is body
// as JSON, unless it is nil (a PATCH is a JSON merge patch); the body of a 2xx is
// read into answer, unless that is nil.
func (c *ControlPlane) Do(t stage.T, token, method, path string, body, answer any) (int, string) {
	t.Helper()
	status, text, err := c.api.do(token, method, path, body, answer)
	if err != nil {
		t.Fatalf("ask the API server: %v", err)
	}
	return status, text
}

// Namespace makes a namespace.
func (c *ControlPlane) Namespace(t stage.T, name string) {
	t.Helper()
	c.must(t, http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": name}}, nil)
}

// must is Do as the administrator, to whom nothing is refused.
func (c *ControlPlane) must(t stage.T, method, path string, body, answer any) {
	t.Helper()
	if status, text := c.Do(t, "", method, path, body, answer); status/100 != 2 {
		t.Fatalf("%s %s: %d %s", method, path, status, strings.TrimSpace(text))
	}
}
