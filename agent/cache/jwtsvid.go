package cache

import (
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// JWTSVID is one JWT-SVID that a workload is entitled to.
type JWTSVID struct {
	ID        spiffeid.ID
	Token     string // compact JWS
	Hint      string
	ExpiresAt time.Time
}
