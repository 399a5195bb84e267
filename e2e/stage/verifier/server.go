package verifier

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// rules say how a program is started that serves TLS, and how it says what it
// has decided. The program answers GET after the handshake.
type rules struct {
	command func(stage.T, setup) *exec.Cmd
	ask     func(net.Conn, setup, presented) (string, error) // gives the answer; nil means over TLS

	ready    string         // in its log when it listens; empty for a program that may be connected to for nothing
	accepted string         // pattern of the answer
	refused  string         // pattern of the answer or, if there is none, of the log; its groups are the reason
	machine  *stage.Machine // where it runs; nil means here
}

// setup is what a program is started with. Files are PEM.
type setup struct {
	dir         string // the program's own
	port        string // of 127.0.0.1
	anchors     string // file
	certificate string // file
	key         string // file; the certificate's name and ".key"
	own         identity
}

// prepare makes a folder with the files of a server.
func prepare(t stage.T, anchors []*x509.Certificate) setup {
	t.Helper()
	dir := stage.Folder(t)
	s := setup{dir: dir, port: strconv.Itoa(stage.FreePort(t)), own: newIdentity(t),
		anchors: filepath.Join(dir, "anchors.pem"), certificate: filepath.Join(dir, "server.pem"), key: filepath.Join(dir, "server.pem.key")}
	write(t, s.anchors, bundle(anchors))
	write(t, s.certificate, s.own.certificate)
	write(t, s.key, s.own.key)
	return s
}

func write(t stage.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatalf("write a verifier's file: %v", err)
	}
}

// bundle encodes anchors, PEM.
func bundle(anchors []*x509.Certificate) []byte {
	var ders [][]byte
	for _, a := range anchors {
		ders = append(ders, a.Raw)
	}
	return encode(ders)
}

// encode gives certificates in PEM.
func encode(ders [][]byte) []byte {
	var file []byte
	for _, der := range ders {
		file = append(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return file
}

// verifier gives the verifier that keeps to these rules.
func (r rules) verifier(name, version string) Verifier {
	if r.ask == nil {
		r.ask = get
	}
	return Verifier{Name: name, Version: version, start: func(t stage.T, anchors []*x509.Certificate) *Running {
		t.Helper()
		return r.serve(t, name, anchors)
	}}
}

// serve starts the program.
func (r rules) serve(t stage.T, name string, anchors []*x509.Certificate) *Running {
	t.Helper()
	s := prepare(t, anchors)
	addr := net.JoinHostPort("127.0.0.1", s.port)
	start, dial := stage.Start, new(net.Dialer).DialContext
	if r.machine != nil {
		start, dial = r.machine.Start, r.machine.DialContext
	}
	cmd := r.command(t, s)
	cmd.Dir = s.dir
	p := start(t, name, cmd)
	p.WaitReady(t, patience, func() error { return r.listens(p, addr) })
	show := func(t stage.T, chain presented) reply {
		t.Helper()
		conn := connect(t, dial, addr)
		defer conn.Close()
		text, err := r.ask(conn, s, chain)
		return reply{text: text, err: err, port: port(conn)}
	}
	return &Running{show: show, accepted: r.accepted, refused: r.refused, logFile: p.LogFile, stop: p.Stop}
}

// connect gives a connection that lasts no longer than patience does.
func connect(t stage.T, dial func(ctx context.Context, network, addr string) (net.Conn, error), addr string) net.Conn {
	t.Helper()
	conn, err := dial(t.Context(), "tcp", addr)
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(patience))
	}
	if err != nil {
		t.Fatalf("connect to a verifier: %v", err)
	}
	return conn
}

// listens gives nil when the program takes connections.
func (r rules) listens(p *stage.Process, addr string) error {
	if r.ready == "" {
		return stage.Dial(addr)
	}
	log, err := os.ReadFile(p.LogFile)
	if err == nil && !bytes.Contains(log, []byte(r.ready)) {
		err = errors.New("it does not listen yet")
	}
	return err
}

// get asks over TLS and reads the answer to its end. The first write ends the
// handshake for the client; what the server says of the chain comes later.
func get(conn net.Conn, s setup, chain presented) (string, error) {
	client := tls.Client(conn, s.own.client(chain))
	if _, err := io.WriteString(client, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	text, err := io.ReadAll(client)
	return string(text), err
}

func port(conn net.Conn) int { return conn.LocalAddr().(*net.TCPAddr).Port }

// identity is a server's certificate and key, PEM.
type identity struct {
	certificate, key []byte
	trusting         *x509.CertPool // the clients' side
}

func newIdentity(t stage.T) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("make a verifier's key: %v", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "verifier"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatalf("make a verifier's certificate: %v", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("encode a verifier's key: %v", err)
	}
	own := identity{
		certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		trusting:    x509.NewCertPool(),
	}
	own.trusting.AppendCertsFromPEM(own.certificate)
	return own
}

// presented is a chain that a client is about to show.
type presented struct {
	tls.Certificate
	asked func() // called before it is shown
}

// client shows a chain, whatever authorities the server names.
func (i identity) client(chain presented) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: i.trusting, ServerName: "127.0.0.1",
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			chain.asked()
			return &chain.Certificate, nil
		},
	}
}
