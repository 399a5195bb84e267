package proxy

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rawHTTP2 sends one request as the fields say and gives the status, 0 if the
// stream or the connection was reset.
func rawHTTP2(t *testing.T, r *rig, cert tls.Certificate, fields [][2]string, body string) string {
	t.Helper()
	config := tlsClient(cert)
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", r.addr, config)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(conn, http2.ClientPreface)
	must(t, err)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	must(t, framer.WriteSettings())
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range fields {
		must(t, encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}))
	}
	must(t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: body == ""}))
	if body != "" {
		must(t, framer.WriteData(1, true, []byte(body)))
	}
	return readStatus(framer)
}

func readStatus(framer *http2.Framer) string {
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "reset"
		case *http2.GoAwayFrame:
			return "closed"
		}
	}
}

func TestHTTP2Fields(t *testing.T) {
	r := start(t)
	cert := r.ca.issue(t, "/bot")
	request := func(path, authority string, more ...[2]string) [][2]string {
		return append([][2]string{{":method", "POST"}, {":scheme", "https"}, {":path", path}, {":authority", authority}}, more...)
	}
	for _, row := range []struct {
		id     string
		fields [][2]string
		body   string
		want   []string
	}{
		{"P-30-transfer-encoding", request("/echo/x", "p", [2]string{"transfer-encoding", "chunked"}), "", []string{"400", "reset"}},
		{"P-30-connection", request("/echo/x", "p", [2]string{"connection", "x-a"}), "", []string{"400", "reset"}},
		{"P-30-line-end-in-value", request("/echo/x", "p", [2]string{"x-a", "b\r\nx-spiffe-id: c"}), "", []string{"400", "reset", "closed"}},
		{"P-30-colon-in-name", request("/echo/x", "p", [2]string{"x:a", "b"}), "", []string{"400", "reset", "closed"}},
		{"P-30-upper-case", request("/echo/x", "p", [2]string{"X-A", "b"}), "", []string{"400", "reset", "closed"}},
		{"P-30-length", request("/echo/x", "p", [2]string{"content-length", "2"}), "abcd", []string{"400", "408", "502", "reset"}},
		{"P-43", request("echo/x", "p"), "", []string{"400", "reset"}},
		{"P-43-absolute", request("https://p/echo/x", "p"), "", []string{"400", "reset"}},
		{"P-44", request("https://other/echo/x", "p"), "", []string{"400", "reset"}},
		{"P-47", request("/echo/x", "p", [2]string{"host", "other"}), "", []string{"400"}},
		{"P-45", append([][2]string{{":method", "get"}}, request("/echo/x", "p")[1:]...), "", []string{"405"}},
	} {
		t.Run(row.id+"/h2/refused", func(t *testing.T) {
			got := rawHTTP2(t, r.as(t), cert, row.fields, row.body)
			for _, want := range row.want {
				if got == want {
					return
				}
			}
			t.Errorf("answer %s, want one of %s", got, row.want)
		})
	}
	t.Run("P-30/twin", func(t *testing.T) {
		fields := request("/echo/x", "p", [2]string{"content-length", "4"}, [2]string{"x-a", "b"})
		if got := rawHTTP2(t, r.as(t), cert, fields, "abcd"); got != "200" {
			t.Errorf("answer %s", got)
		}
	})
}

// gRPC needs trailers and streams in both directions.
func TestTrailers(t *testing.T) {
	r := start(t, withUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Te") != "trailers" {
			t.Errorf("TE %q", req.Header["Te"])
		}
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = io.Copy(w, req.Body)
		_ = http.NewResponseController(w).Flush()
		w.Header().Set("Grpc-Status", "0")
	})))
	client := r.client(true, r.ca.issue(t, "/bot"))
	req, err := http.NewRequest("POST", "https://"+r.addr+"/echo/pkg.Svc/Method", bytes.NewReader([]byte("frame")))
	must(t, err)
	req.Header.Set("Te", "trailers")
	resp, err := client.Do(req)
	must(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || string(raw) != "frame" || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%q %v, trailer %v", raw, err, resp.Trailer)
	}
}
