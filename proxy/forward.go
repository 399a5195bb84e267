package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/authsec-ai/icp/proxy/credential"
	"github.com/authsec-ai/icp/proxy/llm"
	"github.com/authsec-ai/icp/proxy/upstream"
)

// forward sends an allowed request on and the answer back.
func (x *exchange) forward() {
	req, secret, err := x.outgoing()
	if err != nil {
		x.fail(err)
		return
	}
	resp, err := x.backend.RoundTrip(req)
	x.letGo()
	if err != nil {
		x.fail(err)
		return
	}
	defer resp.Body.Close()
	if secret != "" && resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = credential.NewGuard(resp.Body, secret)
	}
	x.relay(req, resp, secret)
}

// outgoing makes the upstream's request: method, path, query and body byte for
// byte as they were judged, and a header of which the proxy vouches for.
func (x *exchange) outgoing() (*http.Request, string, error) {
	self, err := x.proxy.self.valid()
	if err != nil {
		return nil, "", err
	}
	header := x.proxy.stripper.forward(x.r.Header)
	if websocket(x.r) {
		header["Connection"], header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	}
	if x.backend.LLM || x.backend.Credential != nil {
		delete(header, "Accept-Encoding") // the answer has to be readable here
	}
	header[headerRequestID] = []string{x.id}
	identify(header, self.id, x.peer)
	secret := ""
	if x.backend.Credential != nil {
		var value string
		value, secret = x.backend.Credential.Value()
		header[x.backend.Credential.Header()] = []string{value}
	}
	req := (&http.Request{
		Method: x.r.Method, Header: header,
		URL: x.backend.URL(x.target.path, x.target.query, x.target.question),
	}).WithContext(x.ctx)
	x.setBody(req)
	return req, secret, nil
}

func (x *exchange) setBody(req *http.Request) {
	switch {
	case x.raw != nil:
		req.ContentLength = int64(len(x.raw))
		req.GetBody = func() (io.ReadCloser, error) { return &rawBody{x.raw}, nil }
		req.Body = &rawBody{x.raw}
	case x.r.ContentLength == 0:
		req.Body = http.NoBody
	default:
		req.ContentLength = x.r.ContentLength
		req.Body = http.MaxBytesReader(x.w, x.body, x.backend.MaxBodyBytes)
	}
}

// fail ends an exchange that has no answer yet.
func (x *exchange) fail(err error) {
	cut, body := x.cutBy(), x.refuseBody(err)
	switch {
	case cut != nil:
		x.refuse(cut)
	case body != nil:
		x.refuse(body)
	case x.r.Context().Err() != nil:
		x.outcome, x.reason, x.end = outcomeFailed, endClient, endClient
	default:
		x.proxy.log.Warn("upstream failed", "service", x.backend.Service, "request_id", x.id, "error", err)
		x.refuse(upstreamProblem(err))
	}
}

func upstreamProblem(err error) *refusal {
	var network net.Error
	switch {
	case errors.Is(err, errNoSVID):
		return failed(http.StatusServiceUnavailable, "no-svid", "the proxy has no valid identity of its own at the moment")
	case errors.Is(err, upstream.ErrIdentity):
		return failed(http.StatusBadGateway, "upstream-identity", "the upstream did not prove the SPIFFE ID of its route")
	case errors.As(err, &network) && network.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return failed(http.StatusGatewayTimeout, "upstream-timeout", "the upstream did not answer in time")
	}
	return failed(http.StatusBadGateway, "upstream-unreachable", "the upstream can't be reached or broke off")
}

// relay sends the upstream's answer to the caller.
func (x *exchange) relay(req *http.Request, resp *http.Response, secret string) {
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		x.upgrade(req, resp, secret)
		return
	case x.endpoint.Kind == llm.List && resp.StatusCode == http.StatusOK:
		x.relayList(resp)
		return
	case secret != "" && (resp.StatusCode >= 300 || resp.ContentLength >= 0 && resp.ContentLength <= peekBytes):
		if !x.peek(resp) {
			x.refuse(failed(http.StatusBadGateway, endEcho, "the upstream's answer was withheld: it contains the credential"))
			return
		}
	}
	header := x.w.Header()
	answer(header, resp.Header, secret)
	x.stamp(header)
	x.status = resp.StatusCode
	x.w.WriteHeader(resp.StatusCode)
	x.copy(resp, secret)
}

// peekBytes is how much of an answer may be read before it is sent on.
const peekBytes = 64 << 10

// peek reads the start of an answer that is no stream ahead, to find the
// credential in it before anything is sent.
func (x *exchange) peek(resp *http.Response) bool {
	start, err := io.ReadAll(io.LimitReader(resp.Body, peekBytes))
	if errors.Is(err, credential.ErrEcho) {
		return false
	}
	rest := io.Reader(resp.Body)
	if err != nil {
		rest = failing{err}
	}
	resp.Body = readCloser{io.MultiReader(bytes.NewReader(start), rest), resp.Body}
	return true
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

type readCloser struct {
	io.Reader
	io.Closer
}

// copy sends the body as it comes: an answer of unknown length is a stream, of
// which every piece is passed on at once.
func (x *exchange) copy(resp *http.Response, secret string) {
	stream := resp.ContentLength < 0
	if stream && x.write(nil, true) != nil { // the header, at once
		x.broken(nil)
		return
	}
	buf := x.proxy.buffers.Get().(*[]byte)
	defer x.proxy.buffers.Put(buf)
	for {
		n, err := resp.Body.Read(*buf)
		if n > 0 && x.write((*buf)[:n], stream) != nil {
			x.broken(nil)
			return
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			x.broken(err)
			return
		}
	}
	x.trailers(resp, secret)
	if x.write(nil, true) != nil {
		x.broken(nil)
	}
}

// trailers passes on what the upstream sent after the body.
func (x *exchange) trailers(resp *http.Response, secret string) {
	for name, values := range resp.Trailer {
		if !holds(values, secret) {
			x.w.Header()[http.TrailerPrefix+name] = values
		}
	}
}

// broken notes why an answer stopped halfway. A nil err means that the caller
// did not take it.
func (x *exchange) broken(err error) {
	x.outcome = outcomeFailed
	switch cut := x.cutBy(); {
	case cut != nil:
		x.outcome, x.reason, x.end = cut.outcome, cut.reason, "cut"
	case errors.Is(err, credential.ErrEcho):
		x.reason, x.end = endEcho, endEcho
	case err == nil || x.r.Context().Err() != nil:
		x.reason, x.end = endClient, endClient
	default:
		x.reason, x.end = endUpstream, endUpstream
	}
}

// relayList answers with the models that the caller may use.
func (x *exchange) relayList(resp *http.Response) {
	const limit = 4 << 20
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit))
	if err == nil {
		raw, err = llm.FilterList(raw, x.mayUse)
	}
	if err != nil {
		x.fail(err)
		return
	}
	header := x.w.Header()
	header.Set("Content-Type", "application/json")
	x.stamp(header)
	x.status = resp.StatusCode
	x.w.WriteHeader(resp.StatusCode)
	if x.write(raw, true) != nil {
		x.broken(nil)
	}
}

func (x *exchange) mayUse(model string) bool {
	question := x.question
	question.Model = model
	return x.proxy.engine.AllowsModel(question)
}

// websocket reports whether a request asks for the one upgrade that is passed
// on.
func websocket(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.Method == http.MethodGet && connectionNamed(r.Header)["upgrade"] &&
		strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && len(r.Header["Upgrade"]) == 1
}
