package proxy

import (
	"errors"
	"net/http"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/proxy/head"
	"github.com/authsec-ai/icp/proxy/llm"
	"github.com/authsec-ai/icp/proxy/quota"
	"github.com/authsec-ai/icp/proxy/upstream"
)

// serveRequest takes one request through the chain.
func (p *Proxy) serveRequest(w http.ResponseWriter, r *http.Request) {
	if !p.gate.enter() {
		panic(http.ErrAbortHandler) // it came while the last connections were closed
	}
	defer p.gate.leave()
	x := p.newExchange(w, r, callerOf(r))
	defer x.cancel(nil)
	defer x.body.Close()
	defer x.letGo()
	x.peer.begin(x)
	defer x.peer.end(x)

	if refusal := x.judge(); refusal != nil {
		x.refuse(refusal)
	} else {
		x.forward()
	}
	x.finish()
	if x.end != endComplete {
		panic(http.ErrAbortHandler) // the caller must see that the answer is cut short
	}
}

// judge is the chain up to the decision. Its order matters: nothing is read
// from a caller that may not call, and nothing is asked of a policy that two
// readers could read differently.
func (x *exchange) judge() *refusal {
	for _, step := range []func() *refusal{
		x.checkHead,
		x.checkCaller,
		x.match,
		x.describe,
		x.decide,
		x.checkCaller, // again: reading the body takes as long as the caller likes
		x.limit,
		x.record,
	} {
		if refusal := step(); refusal != nil {
			return refusal
		}
	}
	return nil
}

// checkHead refuses what can be read in two ways.
func (x *exchange) checkHead() *refusal {
	if x.r.Method == head.Stand && x.peer.head != nil {
		refused := x.peer.head.Refusal()
		r := malformed(refused.Reason, "the request head is malformed, or can be read in two ways: "+refused.Reason)
		r.status = refused.Status
		return r
	}
	if refusal := checkMethod(x.r.Method); refusal != nil {
		return refusal
	}
	if refusal := checkHost(x.r, x.peer.serverName); refusal != nil {
		return refusal
	}
	var refusal *refusal
	raw := x.r.RequestURI
	if x.peer.head != nil { // HTTP/2 has no absolute form
		raw = originForm(raw)
	}
	x.target, refusal = parseTarget(raw)
	return refusal
}

// checkCaller asks whether the SVID of the handshake still counts.
func (x *exchange) checkCaller() *refusal {
	if !x.proxy.now().Before(x.peer.svid.NotAfter) {
		return refuseExpired()
	}
	if x.proxy.revoked(x.peer.svid.ID, x.peer.svid.Serial) {
		return refuseRevoked()
	}
	return nil
}

// match finds the backend. A path that leads nowhere is forbidden like any
// other that the caller may not use: which paths exist is nobody's business.
func (x *exchange) match() *refusal {
	if x.backend = x.proxy.table.Match(x.target.path); x.backend == nil {
		return denied("no-route", "no policy allows it")
	}
	x.question = policy.Request{
		Subject: x.peer.svid.ID, Service: x.backend.Service, Method: x.r.Method, Path: x.target.path,
		SVIDLifetime: identity.Duration(x.peer.svid.Lifetime),
	}
	return nil
}

// describe finds the model, on routes to an LLM.
func (x *exchange) describe() *refusal {
	if !x.backend.LLM {
		return nil
	}
	x.endpoint = llm.Match(x.r.Method, x.backend.Rest(x.target.path))
	if x.endpoint.Kind == llm.Unknown {
		return denied("unknown-llm-endpoint", "the proxy can't tell the model of a request to this endpoint")
	}
	x.question.Model = x.endpoint.Model
	if x.endpoint.Kind != llm.Inference {
		return nil
	}
	if !x.proxy.engine.MayAllow(x.question) { // whatever the body says
		return refusePolicy(x.proxy.engine.Decide(x.question))
	}
	if refusal := x.readBody(); refusal != nil {
		return refusal
	}
	model, err := llm.ModelOf(x.endpoint, x.target.query, x.r.Header, x.raw)
	if err != nil {
		return refuseLLM(err)
	}
	x.question.Model = model
	return nil
}

// readBody reads the whole body, up to the route's limit.
func (x *exchange) readBody() *refusal {
	var err error
	most := x.backend.MaxBodyBytes
	if x.r.ContentLength > most {
		return refuseTooLarge()
	}
	if x.r.ContentLength >= 0 {
		most = x.r.ContentLength
	}
	x.raw, err = x.readAll(http.MaxBytesReader(x.w, x.body, most), most)
	if errors.Is(err, errMemory) {
		return refuseMemory()
	}
	if refusal := x.refuseBody(err); refusal != nil {
		return refusal
	}
	if err != nil {
		return refuseUnread()
	}
	return nil
}

// refuseBody says why the body could not be read, nil if it is no fault of the
// body.
func (x *exchange) refuseBody(err error) *refusal {
	var large *http.MaxBytesError
	switch framing := x.peer.bodyRefusal(); {
	case framing != nil:
		return malformed(framing.Reason, "the request body is malformed: "+framing.Reason)
	case errors.As(err, &large):
		return refuseTooLarge()
	}
	return nil
}

func refuseUnread() *refusal {
	r := malformed("body-unread", "the request body did not arrive in time")
	r.status = http.StatusRequestTimeout
	return r
}

// decide asks the policies. From here on a change of them finds the question
// and asks again.
func (x *exchange) decide() *refusal {
	x.ask()
	x.decision = x.proxy.engine.Decide(x.question)
	if !x.decision.Allowed {
		return refusePolicy(x.decision)
	}
	return nil
}

// limit counts the request against the limit of the policy that allowed it.
func (x *exchange) limit() *refusal {
	key := quota.Key{Subject: x.question.Subject, Policy: x.decision.Policy}
	if wait, ok := x.proxy.quota.Allow(key, x.decision.RequestsPerMinute); !ok {
		return refuseRate(wait)
	}
	return nil
}

// record makes sure of the audit line, where the route requires it.
func (x *exchange) record() *refusal {
	if x.backend.Audit == upstream.AuditRequired {
		if x.reserved = x.proxy.trail.reserve(x.ctx); !x.reserved {
			return failed(http.StatusServiceUnavailable, "audit-unavailable", "the decision can't be recorded, and this service requires it")
		}
	}
	return nil
}
