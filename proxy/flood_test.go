package proxy

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// mustServe checks that somebody else is served while a flood goes on, or after it.
func (r *rig) mustServe() {
	r.tb.Helper()
	if g := r.mustDo(r.client(true, r.ca.issue(r.tb, "/bot")), "GET", "/echo/x", "", nil); g.status != 200 {
		r.tb.Errorf("another caller got %d", g.status)
	}
}

// keyUpdates sends TLS 1.3 KeyUpdate messages on a connection that crypto/tls
// has opened and that nothing has been sent on since (RFC 8446, section 4.6.3).
type keyUpdates struct {
	conn   net.Conn
	secret []byte // of this client's direction; TLS_AES_128_GCM_SHA256
}

// openForUpdates makes a handshake and takes the secret from the key log.
func openForUpdates(t *testing.T, r *rig, cert tls.Certificate) *keyUpdates {
	t.Helper()
	var log bytes.Buffer
	config := tlsClient(cert)
	config.KeyLogWriter, config.MinVersion = &log, tls.VersionTLS13
	conn, err := net.Dial("tcp", r.addr)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	secure := tls.Client(conn, config)
	must(t, secure.Handshake())
	if suite := secure.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Fatalf("cipher suite %s; the test knows one", tls.CipherSuiteName(suite))
	}
	_, rest, found := strings.Cut(log.String(), "CLIENT_TRAFFIC_SECRET_0 ")
	fields := strings.Fields(rest)
	if !found || len(fields) < 2 {
		t.Fatalf("no secret in the key log %q", log.String())
	}
	secret, err := hex.DecodeString(fields[1])
	must(t, err)
	return &keyUpdates{conn, secret}
}

func (k *keyUpdates) expand(label string, n int) []byte {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(append(append(info, byte(len(label))), label...), 0)
	out, err := hkdf.Expand(sha256.New, k.secret, string(info), n)
	if err != nil {
		panic(err) // for lengths that can't be
	}
	return out
}

// record encrypts one record; each is the first under its key, so its sequence
// number is 0.
func (k *keyUpdates) record(content []byte, kind byte) []byte {
	block, err := aes.NewCipher(k.expand("key", 16))
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	head := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(content)+1+aead.Overhead()))
	return aead.Seal(head, k.expand("iv", 12), append(content, kind), head)
}

// send sends n updates that ask for none in return, and gives the answer to a
// request after them; an error means that the connection was closed.
func (k *keyUpdates) send(n int) error {
	for range n {
		if _, err := k.conn.Write(k.record([]byte{24, 0, 0, 1, 0}, 22)); err != nil {
			return err
		}
		k.secret = k.expand("traffic upd", 32)
	}
	return nil
}

// closed says whether the far side closes the connection. What it says before,
// such as session tickets and an answer, is encrypted and not looked at.
func (k *keyUpdates) closed(within time.Duration) bool {
	_ = k.conn.SetReadDeadline(time.Now().Add(within))
	_, err := io.Copy(io.Discard, k.conn)
	var timeout net.Error
	return !(errors.As(err, &timeout) && timeout.Timeout())
}

func TestKeyUpdates(t *testing.T) {
	r := start(t)
	cert := r.ca.issue(t, "/bot")
	const request = "GET /echo/x HTTP/1.1\r\nHost: proxy.test\r\n\r\n"
	t.Run("V-44/key-update-flood/refused", func(t *testing.T) {
		k := openForUpdates(t, r, cert)
		if err := k.send(1000); err == nil && !k.closed(20*time.Second) {
			t.Error("the connection goes on after 1,000 updates")
		}
		r.as(t).mustServe()
	})
	t.Run("V-44/key-update/twin", func(t *testing.T) {
		before := len(r.records())
		k := openForUpdates(t, r, cert)
		must(t, k.send(3))
		_, err := k.conn.Write(k.record([]byte(request), 23))
		must(t, err)
		r.as(t).eventually("the request after three updates", func() bool { return len(r.records()) > before })
	})
}

// TestOpenSSL has another TLS client try what crypto/tls can't.
func TestOpenSSL(t *testing.T) {
	r := start(t)
	cert := writeIdentity(t, r.ca.issue(t, "/bot"))
	client := func(input string, args ...string) string {
		cmd := exec.Command("openssl", append([]string{"s_client", "-connect", r.addr, "-cert", cert, "-key", cert, "-cert_chain", cert}, args...)...)
		cmd.Stdin = strings.NewReader(input)
		out, _ := cmd.CombinedOutput() // its status says little; what it printed is looked at
		return string(out)
	}
	t.Run("V-44/renegotiation/refused", func(t *testing.T) {
		out := client("R\n", "-tls1_2")
		if !strings.Contains(out, "RENEGOTIATING") || !strings.Contains(out, "alert unexpected message") {
			t.Errorf("openssl printed:\n%s", out)
		}
		r.as(t).mustServe()
	})
	t.Run("V-44/early-data/refused", func(t *testing.T) {
		// The tickets of this server admit none, so an honest client has nothing to send it under.
		out := client("GET /echo/x HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\n\r\n", "-tls1_3", "-ign_eof")
		if !strings.Contains(out, "HTTP/1.1 200") || !strings.Contains(out, "Max Early Data: 0") {
			t.Errorf("openssl printed:\n%s", out)
		}
	})
}

// writeIdentity writes a certificate's chain and key to one file.
func writeIdentity(t *testing.T, cert tls.Certificate) string {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	must(t, err)
	var out bytes.Buffer
	for _, der := range cert.Certificate {
		must(t, pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	must(t, pem.Encode(&out, &pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	path := filepath.Join(t.TempDir(), "identity.pem")
	must(t, os.WriteFile(path, out.Bytes(), 0o600))
	return path
}

// TestRapidReset opens and resets streams as fast as it can (CVE-2023-39325),
// while somebody else is served.
func TestRapidReset(t *testing.T) {
	gone := make(chan struct{}, 1)
	r := start(t, withUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/echo/slow" {
			<-req.Context().Done()
			select {
			case gone <- struct{}{}:
			default:
			}
		}
		_, _ = io.WriteString(w, "done")
	})))
	f := openFramer(t, r)
	flooded := make(chan int)
	go func() {
		id := uint32(1)
		for ; id < 40000; id += 2 {
			if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.fields("/echo/slow"), EndHeaders: true, EndStream: true}) != nil ||
				f.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				break // it has had enough
			}
		}
		flooded <- int(id / 2)
	}()
	t.Run("V-52/rapid-reset/refused", func(t *testing.T) {
		r := r.as(t)
		served := 0
		for n := 0; n == 0; served++ {
			r.mustServe()
			select {
			case n = <-flooded:
			default:
			}
		}
		t.Logf("%d requests of another caller served meanwhile", served)
		select {
		case <-gone:
		case <-time.After(within):
			t.Error("no reset request was given up at the upstream")
		}
	})
}

// TestContinuationFlood sends header fields without end (CVE-2023-45288).
func TestContinuationFlood(t *testing.T) {
	r := start(t)
	f := openFramer(t, r)
	must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.fields("/echo/x"), EndStream: true}))
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for block.Len() < 16000 {
		must(t, enc.WriteField(hpack.HeaderField{Name: "x-fill", Value: strings.Repeat("y", 100), Sensitive: true}))
	}
	sent := 0
	for ; sent < 4096; sent++ { // 64 MiB
		if err := f.WriteContinuation(1, false, block.Bytes()); err != nil {
			break
		}
	}
	t.Run("V-52/continuation-flood/refused", func(t *testing.T) {
		if sent == 4096 {
			t.Error("64 MiB of header fields were taken")
		}
		r.as(t).mustServe()
	})
}

// framer is an HTTP/2 connection that is written frame by frame.
type framer struct {
	*http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
}

func openFramer(t *testing.T, r *rig) *framer {
	t.Helper()
	config := tlsClient(r.ca.issue(t, "/bot"))
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", r.addr, config)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(conn, http2.ClientPreface)
	must(t, err)
	f := &framer{Framer: http2.NewFramer(conn, conn)}
	f.enc = hpack.NewEncoder(&f.block)
	must(t, f.WriteSettings())
	go func() { _, _ = io.Copy(io.Discard, conn) }() // so that neither side waits; it ends with the connection
	return f
}

func (f *framer) fields(path string) []byte {
	f.block.Reset()
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", path}, {":authority", "proxy.test"}} {
		_ = f.enc.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}) // to memory
	}
	return f.block.Bytes()
}
