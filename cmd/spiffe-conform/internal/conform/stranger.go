package conform

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
)

// Stranger is what a caller without an identity got, by method: with the header
// as it must be, and without it.
type Stranger struct {
	Proper map[string]Reply `json:"proper"`
	Bare   map[string]Reply `json:"bare"`
}

// Reply is a gRPC status.
type Reply struct {
	Code    codes.Code `json:"code"`
	Message string     `json:"message,omitempty"`
}

// BeStranger makes each request from this very process, which must have no
// identity.
func BeStranger(ctx context.Context, address socket.Address, timeout time.Duration) (Stranger, error) {
	client, err := socket.Open(address)
	if err != nil {
		return Stranger{}, err
	}
	defer client.Close()
	seen := Stranger{Proper: map[string]Reply{}, Bare: map[string]Reply{}}
	for _, method := range socket.Methods("") {
		seen.Proper[method.Name] = reply(socket.Proper(ctx), timeout, method, client)
		seen.Bare[method.Name] = reply(ctx, timeout, method, client)
	}
	return seen, nil
}

func reply(ctx context.Context, timeout time.Duration, method socket.Method, client *socket.Client) Reply {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	st := status.Convert(method.Call(ctx, client))
	return Reply{Code: st.Code(), Message: st.Message()}
}

const otherUID = needsControl("--other-uid")

// stranger asks once and keeps what it saw.
func (p *probe) stranger(ctx context.Context) (Stranger, error) {
	switch {
	case p.Stranger == nil:
		return Stranger{}, otherUID
	case p.seenByOther == nil:
		seen, err := p.Stranger(ctx)
		if err == nil && len(seen.Proper) == 0 {
			err = errors.New("the other caller saw nothing")
		}
		p.seenByOther = &answer[Stranger]{seen, err}
	}
	return p.seenByOther.message, p.seenByOther.err
}
