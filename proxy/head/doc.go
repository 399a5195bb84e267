// Package head checks how HTTP/1 requests are framed, before net/http reads
// them. net/http normalises some things that another reader would read
// otherwise (a folded header line, a bare line feed, Content-Length beside
// Transfer-Encoding, a repeated Content-Length), and what two readers read
// differently is how requests are smuggled. A Conn refuses all of it.
//
// A Conn sits between a TLS connection and http.Server. It follows each
// request to its end, so that it knows where the next one starts, and lets
// through only whole checked heads and well-framed bodies. A refused head is
// replaced by a stand-in request with the method Stand, so that the refusal is
// answered, in its turn, by the same handler as everything else; after it the
// connection ends. A body with bad framing ends in an error that is a *Refusal.
package head

import "net/http"

// Stand is the method of the request that stands in for a refused one. No
// client can send it through a Conn: methods there are letters only.
const Stand = "REFUSED-HEAD"

const stand = Stand + " / HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n"

const (
	// MaxBytes bounds a request line with its header.
	MaxBytes = 64 << 10
	// MaxFields bounds the number of header fields.
	MaxFields = 128
)

// Refusal says why a request was refused.
type Refusal struct {
	Status int    // of the answer
	Reason string // constant text, safe to show and to count by
}

// Error gives the reason.
func (r *Refusal) Error() string { return r.Reason }

func refuse(reason string) *Refusal { return &Refusal{http.StatusBadRequest, reason} }
