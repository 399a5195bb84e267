package proxy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/proxy/llm"
	"github.com/authsec-ai/icp/proxy/upstream"
)

// exchange is one request and its answer.
type exchange struct {
	proxy   *Proxy
	peer    *peer
	r       *http.Request
	w       http.ResponseWriter
	control *http.ResponseController
	body    *idleBody
	ctx     context.Context // ends when the caller leaves or the exchange is cut
	cancel  context.CancelCauseFunc
	started time.Time
	id      string

	// What the chain finds out.
	target   target
	backend  *upstream.Backend
	endpoint llm.Endpoint
	raw      []byte         // the body, if the model was looked for in it, until it is sent
	memory   int64          // taken for raw
	question policy.Request // asked again when the policies change
	decision policy.Decision
	reserved bool // room in the audit trail

	// What became of it.
	outcome string
	reason  string
	end     string
	status  int
	sent    int64

	mu      sync.Mutex // held by who ends a write
	why     *refusal   // what cut it, nil while nothing has
	asked   bool       // question is complete, and no longer changes
	begun   bool       // the answer is being written
	writing time.Time  // when the write that is under way began; zero if none is
	stuck   bool       // a write was ended because it took too long
}

// Ends of an exchange.
const (
	endComplete = "complete"
	endClient   = "client-left"
	endUpstream = "upstream-truncated"
	endEcho     = "credential-echoed"
)

func (p *Proxy) newExchange(w http.ResponseWriter, r *http.Request, from *peer) *exchange {
	x := &exchange{
		proxy: p, peer: from, r: r, w: w, control: http.NewResponseController(w),
		started: p.now(), id: newRequestID(), end: endComplete, outcome: outcomeAllowed, reason: "allowed",
	}
	x.body = newBody(r, x.control, p.config.IdleTimeout)
	x.ctx, x.cancel = context.WithCancelCause(r.Context())
	return x
}

func newRequestID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return hex.EncodeToString(id[:])
}

// cut ends the exchange from outside: what is under way fails at once.
func (x *exchange) cut(why *refusal) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.why != nil {
		return
	}
	x.why = why
	x.cancel(why)
	if x.begun {
		x.stopWriting()
	}
}

// cutBy gives what cut the exchange, nil if nothing has.
func (x *exchange) cutBy() *refusal {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.why
}

// ask marks the question as complete: a change of the policies finds it.
func (x *exchange) ask() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.asked = true
}

// reconsider asks the question again; a refusal means that it is now denied.
func (x *exchange) reconsider() *refusal {
	x.mu.Lock()
	asked := x.asked
	x.mu.Unlock()
	if !asked {
		return nil // decide is yet to come, and will see the new policies
	}
	if d := x.proxy.engine.Decide(x.question); !d.Allowed {
		return refusePolicy(d)
	}
	return nil
}

// write sends b, and what was buffered before it if flush is set, to a caller
// that must take it in time. Once the exchange is cut it fails.
func (x *exchange) write(b []byte, flush bool) error {
	if !x.startWrite(false) {
		return x.why
	}
	return x.send(b, flush)
}

func (x *exchange) send(b []byte, flush bool) error {
	n, err := x.w.Write(b)
	x.sent += int64(n)
	if err == nil && flush {
		err = x.control.Flush()
	}
	if x.endWrite() {
		return errStuck
	}
	return err
}

var errStuck = errors.New("the caller does not take the answer")

// startWrite reports false once the exchange is cut, unless the write is the
// last word on it.
func (x *exchange) startWrite(last bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.why != nil && !last {
		return false
	}
	x.begun = !last
	x.writing = time.Now()
	return true
}

func (x *exchange) endWrite() (stuck bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.writing = time.Time{}
	return x.stuck
}

// endStuck ends a write that began before the given time. The connection, or
// the stream, can't be written to afterwards.
func (x *exchange) endStuck(before time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.writing.IsZero() && x.writing.Before(before) {
		x.stuck = true
		x.stopWriting()
	}
}

// stopWriting frees a blocked write, and fails those to come.
func (x *exchange) stopWriting() {
	_ = x.control.SetWriteDeadline(time.Unix(1, 0)) // long past; net/http supports it
}

// endStuckWrites looks after all writes until ctx ends: a deadline for each one
// would cost more than most writes do. It lets one run for up to an eighth
// longer than the idle timeout.
func (p *Proxy) endStuckWrites(ctx context.Context) error {
	ticker := time.NewTicker(max(p.config.IdleTimeout/8, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			before := time.Now().Add(-p.config.IdleTimeout)
			p.peers.each(func(x *exchange) { x.endStuck(before) })
		case <-ctx.Done():
			return nil
		}
	}
}

// refuse answers with a refusal, if an answer can still begin.
func (x *exchange) refuse(r *refusal) {
	_ = x.body.Close() // never fails
	x.outcome, x.reason, x.status = r.outcome, r.reason, r.status
	header := x.w.Header()
	clear(header)
	x.stamp(header)
	body := r.render(header, x.id)
	x.w.WriteHeader(r.status)
	if x.r.Method == http.MethodHead {
		body = nil
	}
	x.startWrite(true)
	if err := x.send(body, true); err != nil {
		x.end = endClient
	}
}

// stamp adds the proxy's own fields to the header of an answer. A caller whose
// SVID nears its end is asked to connect anew, which for HTTP/2 is a GOAWAY
// (net/http makes it of the same field): what runs is finished, and nothing is
// lost.
func (x *exchange) stamp(header http.Header) {
	header[headerRequestID] = []string{x.id}
	if !x.proxy.now().Before(x.peer.leaveAt) {
		header["Connection"] = []string{"close"}
	}
}

// finish leaves the audit line and the metrics.
func (x *exchange) finish() {
	took := x.proxy.now().Sub(x.started)
	service := ""
	if x.backend != nil {
		service = x.backend.Service
	}
	x.proxy.metrics.decision(series{service, x.outcome, x.reason}, took)
	x.proxy.trail.put(&record{
		Time: x.started, RequestID: x.id,
		Subject: x.peer.svid.ID.String(), Serial: x.peer.svid.Serial, Remote: x.peer.remote,
		Service: service, Method: x.r.Method, Path: x.auditPath(), Model: x.question.Model,
		Outcome: x.outcome, Reason: x.reason, Policy: x.decision.Policy,
		Status: x.status, Bytes: x.sent, Duration: float64(took.Microseconds()) / 1000, End: x.end,
	}, x.reserved)
}

// auditPath gives the path for the audit line; a refused one is clipped.
func (x *exchange) auditPath() string {
	if x.target.path != "" {
		return x.target.path
	}
	const limit = 256
	return x.r.RequestURI[:min(len(x.r.RequestURI), limit)]
}
