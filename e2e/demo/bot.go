package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/status"
)

// seen is one line that a bot prints: what it read from its own live connection.
type seen struct {
	Time     time.Time `json:"time"`
	Event    string    `json:"event"` // "answer", "refused", "identity", "no-identity", "token", "cut"
	SPIFFEID string    `json:"spiffe_id,omitempty"`
	Serial   string    `json:"serial,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
	Peer     string    `json:"peer,omitempty"`
	Status   int       `json:"status,omitempty"`
	Detail   string    `json:"detail,omitempty"`
}

// bot is a workload: it has no secret, only the socket's address.
type bot struct {
	source *workloadapi.X509Source
	client *http.Client
	conn   atomic.Pointer[liveConn] // of the newest request
	url    string
	out    *json.Encoder
}

type botFlags struct {
	socket, url, proxyID, model string
	mode                        string
	interval                    time.Duration
}

func runBot(ctx context.Context, args []string) error {
	var f botFlags
	set := flag.NewFlagSet("bot", flag.ContinueOnError)
	set.StringVar(&f.socket, "socket", "", "Workload API address")
	set.StringVar(&f.url, "url", "", "the proxy")
	set.StringVar(&f.proxyID, "proxy-id", "", "SPIFFE ID that the proxy must show")
	set.StringVar(&f.model, "model", "", "LLM model to ask for")
	set.StringVar(&f.mode, "mode", "ask", "ask, loop or stream")
	set.DurationVar(&f.interval, "interval", 50*time.Millisecond, "pause between requests of loop")
	if err := set.Parse(args); err != nil {
		return err
	}
	b, err := newBot(ctx, f)
	if err != nil {
		return json.NewEncoder(os.Stdout).Encode(seen{Time: time.Now(), Event: "no-identity", Detail: status.Code(err).String()})
	}
	defer b.source.Close()
	switch f.mode {
	case "ask":
		return b.ask(ctx, f.model)
	case "loop":
		return b.loop(ctx, f)
	case "stream":
		return b.stream(ctx, f.model)
	}
	return fmt.Errorf("mode %q: want ask, loop or stream", f.mode)
}

func newBot(ctx context.Context, f botFlags) (*bot, error) {
	if err := fetchOnce(ctx, f.socket); err != nil {
		return nil, err
	}
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(f.socket)))
	if err != nil {
		return nil, err
	}
	proxy, err := spiffeid.FromString(f.proxyID)
	if err != nil {
		return nil, err
	}
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(proxy))
	transport := &http.Transport{DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dial(ctx, network, addr, config)
	}}
	b := &bot{source: source, url: f.url, out: json.NewEncoder(os.Stdout), client: &http.Client{Transport: transport}}
	go b.followRotation(ctx, transport)
	return b, nil
}

// fetchOnce asks without retrying, so that a refusal shows as what it is.
func fetchOnce(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr(socket))
	return err
}

// followRotation lets the next request make a new connection, with the new
// certificate, after each rotation. It ends with ctx or the source.
func (b *bot) followRotation(ctx context.Context, transport *http.Transport) {
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-b.source.Updated():
			if !open {
				return
			}
			transport.CloseIdleConnections()
		}
	}
}

// ask makes one request and prints what came of it.
func (b *bot) ask(ctx context.Context, model string) error {
	resp, err := b.post(ctx, model, false)
	if err != nil {
		return b.print(seen{Event: "refused", Detail: err.Error()})
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return b.print(seen{Event: "refused", Status: resp.StatusCode, Detail: err.Error()})
	}
	return b.print(answer(resp, strings.TrimSpace(string(body))))
}

func (b *bot) loop(ctx context.Context, f botFlags) error {
	tick := time.NewTicker(f.interval)
	defer tick.Stop()
	for {
		if err := b.ask(ctx, f.model); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// stream holds one SSE answer open until somebody ends it.
func (b *bot) stream(ctx context.Context, model string) error {
	resp, err := b.post(ctx, model, true)
	if err != nil {
		return b.print(seen{Event: "refused", Detail: err.Error()})
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return b.print(answer(resp, ""))
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		switch {
		case lines.Text() == "data: [DONE]":
			return b.print(seen{Event: "done"}) // the server ended it: nobody was cut off
		case strings.HasPrefix(lines.Text(), "data:"):
			if err := b.print(seen{Event: "token"}); err != nil {
				return err
			}
		}
	}
	return b.print(seen{Event: "cut", Detail: fmt.Sprint(lines.Err())})
}

func (b *bot) post(ctx context.Context, model string, stream bool) (*http.Response, error) {
	body := map[string]any{"model": model, "messages": []map[string]string{{"role": "user", "content": "Where is my order?"}}}
	if stream {
		body["stream"], body["sample"] = true, map[string]int{"chunks": -1, "delay_ms": 20} // until somebody ends it
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url+"/v1/chat/completions", strings.NewReader(string(raw)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		b.conn.Store(info.Conn.(*liveConn))
	}}
	return b.client.Do(req.WithContext(httptrace.WithClientTrace(ctx, trace)))
}

// print adds what was shown and seen on the connection in use.
func (b *bot) print(s seen) error {
	s.Time = time.Now()
	if conn := b.conn.Load(); conn != nil {
		s.SPIFFEID, s.Serial, s.NotAfter, s.Peer = idOf(conn.shown), conn.shown.SerialNumber.Text(16), conn.shown.NotAfter, idOf(conn.peer)
	}
	return b.out.Encode(s)
}

// liveConn remembers the certificates of its handshake.
type liveConn struct {
	*tls.Conn
	shown, peer *x509.Certificate
}

// dial connects and notes which certificate the handshake really used.
func dial(ctx context.Context, network, addr string, config *tls.Config) (net.Conn, error) {
	live := &liveConn{}
	config = config.Clone()
	ask := config.GetClientCertificate
	config.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert, err := ask(info)
		if err == nil {
			live.shown, err = x509.ParseCertificate(cert.Certificate[0])
		}
		return cert, err
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	live.Conn = conn.(*tls.Conn)
	live.peer = live.ConnectionState().PeerCertificates[0]
	return live, nil
}

func idOf(cert *x509.Certificate) string {
	id, err := x509svid.IDFromCert(cert)
	if err != nil {
		return err.Error()
	}
	return id.String()
}

func answer(resp *http.Response, body string) seen {
	return seen{Event: "answer", Status: resp.StatusCode, Detail: body}
}
