package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func newCallers(cfg Config) ([]caller, error) {
	protocol := "http/1.1"
	if cfg.Shape == HTTP2 {
		protocol = "h2"
	}
	secure, err := tlsConfig(cfg, protocol)
	if err != nil {
		return nil, err
	}
	var callers []caller
	for range cfg.Connections {
		switch cfg.Shape {
		case HTTP1, SSE:
			callers = append(callers, &connCaller{cfg: cfg, tls: secure})
		case Handshake:
			callers = append(callers, &connCaller{cfg: cfg, tls: secure, onlyOnce: true})
		case Resumed:
			own := secure.Clone()
			own.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			callers = append(callers, &connCaller{cfg: cfg, tls: own, onlyOnce: true})
		case HTTP2:
			callers = append(callers, streamCallers(cfg, secure)...)
		default:
			return nil, fmt.Errorf("there is no shape %q", cfg.Shape)
		}
	}
	return callers, nil
}

// tlsConfig offers one key exchange, so that all gateways do the same work, and
// keeps no session to resume.
func tlsConfig(cfg Config, protocol string) (*tls.Config, error) {
	gateway, err := spiffeid.FromString(cfg.GatewayID)
	if err != nil {
		return nil, err
	}
	own, err := x509svid.Load(cfg.CertFile, cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	bundle, err := x509bundle.Load(gateway.TrustDomain(), cfg.BundleFile)
	if err != nil {
		return nil, err
	}
	secure := tlsconfig.MTLSClientConfig(own, bundle, tlsconfig.AuthorizeID(gateway))
	secure.MinVersion = tls.VersionTLS13
	secure.CurvePreferences = []tls.CurveID{tls.X25519}
	secure.NextProtos = []string{protocol}
	return secure, nil
}

// connCaller writes HTTP/1.1 on a connection of its own.
type connCaller struct {
	cfg      Config
	tls      *tls.Config
	onlyOnce bool // a new connection for each request
	warmed   bool // there is a session to resume, if there is a cache

	conn   net.Conn
	reader *bufio.Reader
}

func (c *connCaller) warm(ctx context.Context) error {
	_, err := c.exchange(ctx, http.MethodGet, c.cfg.WarmPath, "")
	c.warmed = true
	return err
}

func (c *connCaller) call(ctx context.Context) (int, error) {
	method := http.MethodGet
	if c.cfg.Body != "" {
		method = http.MethodPost
	}
	return c.exchange(ctx, method, c.cfg.Path, c.cfg.Body)
}

func (c *connCaller) close() {
	if c.conn != nil {
		_ = c.conn.Close() // nothing is lost
		c.conn = nil
	}
}

func (c *connCaller) exchange(ctx context.Context, method, path, body string) (int, error) {
	if err := c.connect(ctx); err != nil {
		return 0, err
	}
	if c.onlyOnce {
		defer c.close()
	}
	if _, err := c.conn.Write(request(c.cfg.Gateway, method, path, body)); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0, err
	}
	return count(resp)
}

func (c *connCaller) connect(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	dialer := tls.Dialer{Config: c.tls}
	conn, err := dialer.DialContext(ctx, "tcp", c.cfg.Gateway)
	if err != nil {
		return err
	}
	if resume := c.tls.ClientSessionCache != nil; resume && c.warmed && !conn.(*tls.Conn).ConnectionState().DidResume {
		return errors.Join(errors.New("the gateway does not resume the session"), conn.Close())
	}
	c.conn, c.reader = conn, bufio.NewReader(conn)
	return nil
}

func request(host, method, path, body string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\n", method, path, host)
	if body != "" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.WriteString(body)
	return b.Bytes()
}

// count reads an answer to its end and gives its operations.
func count(resp *http.Response) (int, error) {
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return 0, fmt.Errorf("status %s: %s", resp.Status, said)
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		_, err := io.Copy(io.Discard, resp.Body)
		return 1, err
	}
	events := 0
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if bytes.HasPrefix(lines.Bytes(), []byte("data:")) {
			events++
		}
	}
	return events, lines.Err()
}

// streamCaller is one of those that share an HTTP/2 connection.
type streamCaller struct {
	cfg    Config
	client *http.Client
}

func streamCallers(cfg Config, secure *tls.Config) []caller {
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: secure.Clone(), ForceAttemptHTTP2: true, MaxConnsPerHost: 1,
	}}
	callers := make([]caller, cfg.Streams)
	for i := range callers {
		callers[i] = &streamCaller{cfg: cfg, client: client}
	}
	return callers
}

func (c *streamCaller) warm(ctx context.Context) error {
	_, err := c.get(ctx, c.cfg.WarmPath)
	return err
}

func (c *streamCaller) call(ctx context.Context) (int, error) { return c.get(ctx, c.cfg.Path) }

func (c *streamCaller) close() { c.client.CloseIdleConnections() }

func (c *streamCaller) get(ctx context.Context, path string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.cfg.Gateway+path, nil)
	if err != nil {
		return 0, err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, err
	}
	if resp.ProtoMajor != 2 {
		resp.Body.Close()
		return 0, fmt.Errorf("answered in %s", resp.Proto)
	}
	return count(resp)
}
