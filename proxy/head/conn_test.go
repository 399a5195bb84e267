package head

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// pieces is a connection that gives its input n bytes at a time.
type pieces struct {
	net.Conn
	input io.Reader
	n     int
}

func (p *pieces) Read(b []byte) (int, error) { return p.input.Read(b[:min(len(b), p.n)]) }
func (p *pieces) Close() error               { return nil }
func (p *pieces) SetReadDeadline(time.Time) error {
	return nil
}

// readAll gives what the Conn lets through of text.
func readAll(text string, n int) (string, *Conn, error) {
	c := NewConn(&pieces{input: strings.NewReader(text), n: n})
	out, err := io.ReadAll(c)
	return string(out), c, err
}

func TestPassesWhatIsWellFramed(t *testing.T) {
	text := "GET / HTTP/1.1\r\nHost: a\r\n\r\n" +
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab\ncd" +
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n1\r\n\n\r\n0\r\n\r\n" +
		"HEAD /x HTTP/1.0\r\nHost: a\r\n\r\n"
	for n := 1; n <= len(text); n++ {
		got, c, err := readAll(text, n)
		if got != text || err != nil || c.Refusal() != nil {
			t.Fatalf("in pieces of %d: %v, %v, %q", n, err, c.Refusal(), got)
		}
	}
}

func TestStandsInForWhatIsNot(t *testing.T) {
	good := "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
	for _, bad := range []string{
		"GET / HTTP/1.1\nHost: a\n\n", "\n", "\r\n", "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
		Stand + " / HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		for _, n := range []int{1, 7, 4096} {
			got, c, err := readAll(good+bad+good, n)
			if got != good+stand || err != nil || c.Refusal() == nil {
				t.Errorf("%q in pieces of %d: %v, %v, %q", bad, n, err, c.Refusal(), got)
			}
		}
	}
}

func TestRefusesBodies(t *testing.T) {
	head := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, bad := range []string{"\r\n", "x\r\n", "-1\r\n", "+1\r\n", "1_0\r\n", "0000000000000000001\r\n", "1 \r\n", "1\n", "1;a\r\n", "1\r\nab\r\n", "1\r\na\n", "0\r\nA: b\r\n\r\n", "0\r\n\n"} {
		for _, n := range []int{1, 3, 4096} {
			got, c, err := readAll(head+bad+strings.Repeat("x", 64), n)
			var refusal *Refusal
			if !errors.As(err, &refusal) || c.BodyRefusal() == nil || !strings.HasPrefix(got, head) {
				t.Errorf("%q in pieces of %d: %v, %q", bad, n, err, got)
			}
		}
	}
}

func TestBoundsHeads(t *testing.T) {
	endless := io.MultiReader(strings.NewReader("GET / HTTP/1.1\r\nHost: a\r\nX: "), forever{})
	c := NewConn(&pieces{input: endless, n: 4096})
	got, err := io.ReadAll(c)
	if err != nil || string(got) != stand || c.Refusal().Status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%v, %v, %d bytes", err, c.Refusal(), len(got))
	}
}

type forever struct{}

func (forever) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

// late gives a timeout before every byte.
type late struct {
	pieces
	tick bool
}

func (l *late) Read(b []byte) (int, error) {
	if l.tick = !l.tick; l.tick {
		return 0, timeout{}
	}
	return l.pieces.Read(b)
}

type timeout struct{}

func (timeout) Error() string   { return "timeout" }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

// A read that timed out may be tried again, and nothing is lost.
func TestTimeoutsAreNotKept(t *testing.T) {
	text := "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n"
	c := NewConn(&late{pieces: pieces{input: strings.NewReader(text), n: 1}})
	var got []byte
	for {
		b := make([]byte, 16)
		n, err := c.Read(b)
		got = append(got, b[:n]...)
		if err == io.EOF {
			break
		}
	}
	if string(got) != text {
		t.Errorf("%q", got)
	}
}

// FuzzAgainstNetHTTP holds what passes against the reader behind it: net/http
// must find as many requests in it as the Conn did, with the same bodies, and
// must find a Stand only where a head was refused.
func FuzzAgainstNetHTTP(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 3)
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab\ncdGET / HTTP/1.1\r\nHost: a\r\n\r\n"), 1)
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"), 4096)
	f.Add([]byte("GET http://a/x?y HTTP/1.1\r\nHost: a\r\nX: \xff\r\n\r\n"), 5)
	f.Fuzz(func(t *testing.T, input []byte, n int) {
		c := NewConn(&pieces{input: bytes.NewReader(input), n: max(1, n%5000)})
		in := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				if c.err == nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("net/http refuses what passed: %v", err)
				}
				return
			}
			if (req.Method == Stand) != (c.Refusal() != nil && c.ready == 0 && len(c.buf) == 0 && in.Buffered() == 0) && req.Method == Stand {
				t.Fatalf("a Stand without a refusal: %v", c.Refusal())
			}
			if len(req.TransferEncoding) > 0 && req.ContentLength >= 0 {
				t.Fatal("two framings")
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return // broken off or refused
			}
		}
	})
}

func BenchmarkConn(b *testing.B) {
	text := []byte("POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.example\r\nUser-Agent: bench\r\nContent-Type: application/json\r\nAccept: */*\r\nContent-Length: 64\r\n\r\n" + strings.Repeat("x", 64))
	in := bytes.NewReader(text)
	c := NewConn(&pieces{input: in, n: 4096})
	out := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		in.Reset(text)
		for left := len(text); left > 0; {
			n, err := c.Read(out)
			if err != nil {
				b.Fatal(err)
			}
			left -= n
		}
	}
}
