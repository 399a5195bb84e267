// Package proxy is the AgentAuth Proxy: it ends mutual TLS in front of APIs and
// LLM endpoints and lets a request through only if policy allows it to the
// SPIFFE ID that the connection proved.
//
// A request walks through one chain, which handler.go shows whole:
//
//	TLS handshake (listener.go: svid.VerifyParsed, also on resumption)
//	→ head check (head/, target.go) → route (upstream/) → model (llm/)
//	→ policy.Decide: a denial ends here → quota → headers and credential
//	→ upstream → audit line and metrics
//
// The default is to deny, also when something errs: without an SVID of its own
// the proxy takes no connection, without policies it allows nothing.
//
// A Proxy is a value without global state; several may run in one process. It
// handles no signals: cancel the context of Run to drain it.
package proxy
