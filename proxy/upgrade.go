package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/authsec-ai/icp/proxy/credential"
)

// upgrade joins caller and upstream after both have agreed on WebSocket.
func (x *exchange) upgrade(req *http.Request, resp *http.Response, secret string) {
	asked := req.Header.Get("Upgrade")
	far, ok := resp.Body.(io.ReadWriteCloser)
	if asked == "" || !ok || !strings.EqualFold(resp.Header.Get("Upgrade"), asked) {
		x.fail(errors.New("the upstream switched protocols unasked"))
		return
	}
	near, buffered, err := x.control.Hijack()
	if err != nil {
		x.fail(err)
		return
	}
	defer near.Close()
	x.status = http.StatusSwitchingProtocols
	if err := x.switchProtocols(near, resp.Header, secret); err != nil {
		x.broken(nil)
		return
	}
	x.peer.head.Upgraded()
	x.join(near, buffered.Reader, far, secret)
}

func (x *exchange) switchProtocols(near net.Conn, from http.Header, secret string) error {
	header := http.Header{}
	answer(header, from, secret)
	header["Connection"], header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	out := bufio.NewWriter(near)
	_, _ = out.WriteString("HTTP/1.1 101 Switching Protocols\r\n") // Flush reports what fails
	_ = header.Write(out)
	_, _ = out.WriteString("\r\n")
	return out.Flush()
}

// join copies in both directions until one side ends or the exchange is cut.
func (x *exchange) join(near net.Conn, fromNear io.Reader, far io.ReadWriteCloser, secret string) {
	stop := context.AfterFunc(x.ctx, func() { _, _ = near.Close(), far.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(far, fromNear) // either end of a WebSocket may just leave
		_ = far.Close()
	}()
	var err error
	x.sent, err = io.Copy(near, guarded(far, secret))
	_, _ = near.Close(), far.Close()
	<-done
	if errors.Is(err, credential.ErrEcho) {
		x.outcome, x.reason, x.end = outcomeFailed, endEcho, endEcho
	}
	if cut := x.cutBy(); cut != nil {
		x.outcome, x.reason, x.end = cut.outcome, cut.reason, "cut"
	}
}

// guarded gives what comes from the upstream, up to the credential.
func guarded(far io.ReadCloser, secret string) io.Reader {
	if secret == "" {
		return far
	}
	return credential.NewGuard(far, secret)
}
