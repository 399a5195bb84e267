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
	url  string
	http *http.Client
}

// newREST gives a client of the server at url that shows the certificate NAME.crt,
// or none if name is empty. dial is nil for what this host's network reaches.
func newREST(t stage.T, url string, p *pki, name string, dial func(context.Context, string, string) (net.Conn, error)) rest {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(p.cert)
	config := &tls.Config{RootCAs: roots}
	if name != "" {
		cert, err := tls.LoadX509KeyPair(p.path(name+".crt"), p.path(name+".key"))
		if err != nil {
			t.Fatalf("load a client's certificate: %v", err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	transport := &http.Transport{TLSClientConfig: config, DialContext: dial}
	t.Cleanup(transport.CloseIdleConnections)
	return rest{url, &http.Client{Transport: transport}}
}

// do sends body as JSON unless it is nil, and reads the body of a 2xx into answer
// unless that is nil. A PATCH is a JSON merge patch.
func (r rest) do(ctx context.Context, token, method, path string, body, answer any) (int, string, error) {
	request, err := newRequest(ctx, method, r.url+path, body)
	if err != nil {
		return 0, "", err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := r.http.Do(request)
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

func newRequest(ctx context.Context, method, url string, body any) (*http.Request, error) {
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(raw)
	}
	request, err := http.NewRequestWithContext(ctx, method, url, content)
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
	who := c.guest
	if token == "" {
		who = c.admin
	}
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	status, text, err := who.do(ctx, token, method, path, body, answer)
	if err != nil {
		t.Fatalf("ask the API server: %v", err)
	}
	return status, text
}

// must is Do as the administrator, to whom nothing is refused.
func (c *ControlPlane) must(t stage.T, method, path string, body, answer any) {
	t.Helper()
	if status, text := c.Do(t, "", method, path, body, answer); status/100 != 2 {
		t.Fatalf("%s %s: %d %s", method, path, status, strings.TrimSpace(text))
	}
}
