// Package plain is a gateway as Go's standard library has it, tuned: what a proxy
// in Go costs without policies, audit and metrics.
package plain

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"
)

// Config of Serve.
type Config struct {
	Listen     string `json:"listen"`   // host:port
	CertFile   string `json:"cert"`     // PEM: what it shows
	KeyFile    string `json:"key"`      // PEM
	BundleFile string `json:"bundle"`   // PEM: anchors of callers
	CallerID   string `json:"caller"`   // SPIFFE ID that may call
	Upstream   string `json:"upstream"` // URL
}

// Serve serves until the process is told to end.
func Serve(ctx context.Context, cfg Config) error {
	secure, err := tlsConfig(cfg)
	if err != nil {
		return err
	}
	upstream, err := url.Parse(cfg.Upstream)
	if err != nil {
		return fmt.Errorf("read the upstream's URL: %w", err)
	}
	srv := &http.Server{Addr: cfg.Listen, TLSConfig: secure, Handler: only(cfg.CallerID, forward(upstream)), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // requests under way are of no more use
	defer stop()
	if err := srv.ListenAndServeTLS("", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func tlsConfig(cfg Config) (*tls.Config, error) {
	own, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	bundle, err := os.ReadFile(cfg.BundleFile)
	if err != nil {
		return nil, fmt.Errorf("read the bundle: %w", err)
	}
	anchors := x509.NewCertPool()
	if !anchors.AppendCertsFromPEM(bundle) {
		return nil, fmt.Errorf("%s has no certificate", cfg.BundleFile)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: anchors,
		MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519},
	}, nil
}

// only lets one caller through.
func only(caller string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if uris := r.TLS.PeerCertificates[0].URIs; len(uris) != 1 || uris[0].String() != caller {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// forward keeps connections and buffers; server-sent events pass at once.
func forward(upstream *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(upstream) },
		BufferPool: &buffers{},
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 1024, IdleConnTimeout: time.Hour, DisableCompression: true,
		},
	}
}

// buffers are those that bodies are copied through.
type buffers struct{ pool sync.Pool }

const bufferBytes = 32 << 10

// Get gives a buffer.
func (b *buffers) Get() []byte {
	if kept, ok := b.pool.Get().(*[bufferBytes]byte); ok {
		return kept[:]
	}
	return new([bufferBytes]byte)[:]
}

// Put takes it back.
func (b *buffers) Put(buffer []byte) { b.pool.Put((*[bufferBytes]byte)(buffer)) }
