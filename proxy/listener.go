package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/proxy/head"
)

const (
	handshakeTimeout = 10 * time.Second
	// maxHandshakes bounds how many handshakes are under way at a time, and so
	// what callers that never finish one can hold.
	maxHandshakes = 1024
)

// listener accepts connections, finishes their handshakes side by side, and
// hands on those whose caller has proved a SPIFFE ID.
type listener struct {
	inner   net.Listener
	self    *self
	peers   *peers
	revoked svid.Revoked
	grace   time.Duration // how long a connection outlives its SVID
	now     func() time.Time
	log     *slog.Logger
	metrics *metrics

	base  *tls.Config // holds the session ticket keys
	ready chan net.Conn
	slots chan struct{}
	done  chan struct{}
	close sync.Once
}

func (l *listener) start() {
	l.ready = make(chan net.Conn)
	l.slots = make(chan struct{}, maxHandshakes)
	l.done = make(chan struct{})
	l.base = &tls.Config{GetConfigForClient: l.configFor}
}

// Accept gives the next verified connection: a *tls.Conn that speaks HTTP/2, or
// a *head.Conn.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.ready:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Addr gives the address that is listened on.
func (l *listener) Addr() net.Addr { return l.inner.Addr() }

// Close stops accepting.
func (l *listener) Close() error {
	l.close.Do(func() { close(l.done) })
	return l.inner.Close()
}

// run accepts until Close, and returns when every handshake has ended.
func (l *listener) run(ctx context.Context) error {
	var handshakes sync.WaitGroup
	defer handshakes.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.done:
			return nil
		}
		conn, err := l.inner.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			<-l.slots
			l.pause(err)
			continue
		}
		handshakes.Go(func() {
			l.admit(ctx, conn)
		})
	}
}

// pause waits after an error such as too many open files.
func (l *listener) pause(err error) {
	l.log.Error("can't accept a connection", "error", err)
	select {
	case <-time.After(50 * time.Millisecond):
	case <-l.done:
	}
}

// admit finishes one handshake and hands the connection on.
func (l *listener) admit(ctx context.Context, conn net.Conn) {
	verified, err := l.handshake(ctx, conn)
	<-l.slots
	if err != nil {
		l.refused(conn, err)
		return
	}
	select {
	case l.ready <- verified:
	case <-l.done:
		_ = verified.Close() // the client sees that nobody serves
	}
}

func (l *listener) handshake(ctx context.Context, conn net.Conn) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	p := l.peers.wrap(conn)
	secure := tls.Server(p, l.base)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = p.Close() // the handshake's error is the one to report
		return nil, err
	}
	state := secure.ConnectionState()
	p.serverName = state.ServerName
	l.peers.add(p)
	if err := l.verifyLate(p); err != nil {
		_ = p.Close() // the refusal is the error to report
		return nil, err
	}
	p.expire(l.now(), l.grace)
	if state.NegotiatedProtocol == "h2" {
		return secure, nil
	}
	p.head = head.NewConn(secure)
	return p.head, nil
}

// configFor makes the configuration of one connection, which knows its peer.
// The session ticket keys stay those of l.base.
func (l *listener) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	p := hello.Conn.(*peer)
	cert, err := l.self.Certificate()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		CipherSuites: cipherSuites,
		NextProtos:   []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{*cert},
		ClientAuth:   tls.RequireAnyClientCert, // VerifyConnection verifies
		Time:         l.now,
		// Runs on resumed sessions too, unlike VerifyPeerCertificate.
		VerifyConnection: func(state tls.ConnectionState) error { return l.verify(p, state) },
	}, nil
}

// cipherSuites are those of TLS 1.2 with forward secrecy and AEAD. TLS 1.3 has
// no others.
var cipherSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

func (l *listener) verify(p *peer, state tls.ConnectionState) error {
	p.under = l.self.current.Load()
	chain := state.PeerCertificates
	verified, err := svid.VerifyParsed(chain, l.self, svid.X509Options{Now: l.now(), Revoked: l.revoked})
	if err != nil {
		return err
	}
	p.svid, p.chain, p.described = verified, chain, describe(verified)
	return nil
}

// verifyLate verifies again if the bundles changed during the handshake: who
// looked for connections to close then did not see this one.
func (l *listener) verifyLate(p *peer) error {
	if l.self.current.Load() == p.under {
		return nil
	}
	_, err := svid.VerifyParsed(p.chain, l.self, svid.X509Options{Now: l.now(), Revoked: l.revoked})
	return err
}

// refused counts and logs a handshake that failed; anybody can cause any number
// of them, so log is a limited one. What the client sent stands in it as an
// escaped value.
func (l *listener) refused(conn net.Conn, err error) {
	reason := handshakeReason(err)
	l.metrics.handshakeRefused(reason)
	l.log.Info("handshake refused", "reason", reason, "remote", conn.RemoteAddr().String(), "error", err.Error())
}

// handshakeReason gives a constant text for what ended a handshake.
func handshakeReason(err error) string {
	var notTLS tls.RecordHeaderError
	switch {
	case svid.ReasonOf(err) != "":
		return string(svid.ReasonOf(err))
	case errors.Is(err, errNoSVID):
		return "no-svid"
	case errors.As(err, &notTLS):
		return "not-tls"
	case errors.Is(err, context.DeadlineExceeded):
		return "handshake-timeout"
	case errors.Is(err, io.EOF), errors.Is(err, context.Canceled):
		return "client-left"
	}
	return tlsReason(err)
}

// tlsReason tells apart what crypto/tls tells apart by its text alone.
func tlsReason(err error) string {
	text := err.Error()
	for _, known := range []struct{ part, reason string }{
		{"didn't provide a certificate", "no-client-certificate"},
		{"failed to parse client certificate", "malformed-certificate"},
		{"exceeds maximum of", "too-large"},
		{"RSA key larger", "unsupported-key"},
		{"unsupported public key", "unsupported-key"},
		{"by the client certificate", "no-key-proof"},
		{"invalid signature algorithm", "no-key-proof"},
		{"unsupported versions", "tls-version"},
		{"unsupported application protocols", "alpn"},
		{"no cipher suite", "cipher-suite"},
		{"remote error", "client-alert"},
	} {
		if strings.Contains(text, known.part) {
			return known.reason
		}
	}
	return "tls"
}
