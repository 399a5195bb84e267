package conform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/strict"
)

// validateRows judge ValidateJWTSVID (SPIFFE Workload API section 6.2.3).
func validateRows() []Row {
	return []Row{
		{ID: "WLAPI-25", Level: Must, Wants: "ValidateJWTSVID accepts a token as it was issued, and no other", check: refusesHostile},
		{ID: "WLAPI-26", Level: Should, Wants: "ValidateJWTSVID gives the ID and the claims sub, aud as a list, and exp exactly", check: givesClaims},
	}
}

// refusesHostile shows the good token before and after: a server that refuses
// everything, or that a token has stopped, passes nothing.
func refusesHostile(ctx context.Context, p *probe) (string, error) {
	tokens, err := p.hostileTokens()
	if err != nil {
		return "", err
	}
	if err := p.goodAccepted(ctx); err != nil {
		return "", err
	}
	var accepted []string
	for _, bad := range tokens {
		reply := p.validate(ctx, bad.token, bad.audience)
		switch status.Code(reply.err) {
		case codes.OK:
			accepted = append(accepted, bad.name)
		case codes.Unavailable, codes.DeadlineExceeded:
			return "", fmt.Errorf("shown a token with %s, the server gives %w", bad.name, reply.err)
		}
	}
	if len(accepted) > 0 {
		return "", fmt.Errorf("of %d hostile tokens it accepts %d: %s", len(tokens), len(accepted), strings.Join(accepted, "; "))
	}
	return fmt.Sprintf("%d hostile tokens refused, the good one accepted before and after", len(tokens)), p.goodAccepted(ctx)
}

func (p *probe) goodAccepted(ctx context.Context) error {
	if err := p.validate(ctx, p.token(), socket.Audience).err; err != nil {
		return fmt.Errorf("the token as it was issued gives %w", err)
	}
	return nil
}

// hostileTokens derives them from the first token, with the key of the first
// X.509-SVID where there is one.
func (p *probe) hostileTokens() ([]hostile, error) {
	tokens, err := p.tokens()
	if err != nil {
		return nil, err
	}
	good, err := strict.DecodeToken(tokens[0].GetSvid())
	if err != nil {
		return nil, fmt.Errorf("the token %w", err)
	}
	kid, err := good.KeyID()
	if err != nil {
		return nil, err
	}
	home, err := p.home()
	if err != nil {
		return nil, err
	}
	key, err := p.jwtKey(home, kid)
	if err != nil {
		return nil, err
	}
	source := material{compact: tokens[0].GetSvid(), token: good, public: key}
	if chains, err := p.chains(); err == nil {
		source.x509Key = chains[0].key
	}
	return hostileTokens(source)
}

func givesClaims(ctx context.Context, p *probe) (string, error) {
	tokens, err := p.tokens()
	if err != nil {
		return "", err
	}
	for _, each := range tokens {
		token, err := strict.DecodeToken(each.GetSvid())
		if err != nil {
			return "", fmt.Errorf("a token %w", err)
		}
		reply := p.validate(ctx, each.GetSvid(), socket.Audience)
		if reply.err != nil {
			return "", fmt.Errorf("ValidateJWTSVID gives %w", reply.err)
		}
		if err := sameClaims(token, reply.message); err != nil {
			return "", fmt.Errorf("for the token of %s, %w", each.GetSpiffeId(), err)
		}
	}
	return fmt.Sprintf("%d tokens", len(tokens)), nil
}

func sameClaims(token *strict.Token, reply *workload.ValidateJWTSVIDResponse) error {
	claims := reply.GetClaims().AsMap()
	sub, err := token.Subject()
	if err != nil {
		return err
	}
	if reply.GetSpiffeId() != sub || claims["sub"] != sub {
		return fmt.Errorf("spiffe_id is %q and sub %v, not %s", reply.GetSpiffeId(), claims["sub"], sub)
	}
	if err := sameAudience(token, claims["aud"]); err != nil {
		return err
	}
	number, _ := token.Claims["exp"].(json.Number)
	want, err := number.Float64()
	if err != nil {
		return errors.New("its exp is no number")
	}
	if got, ok := claims["exp"].(float64); !ok || got != want {
		return fmt.Errorf("exp is %v, in the token %s", claims["exp"], number)
	}
	return nil
}

func sameAudience(token *strict.Token, got any) error {
	want, err := token.Audience()
	if err != nil {
		return err
	}
	list, ok := got.([]any)
	if !ok {
		return fmt.Errorf("aud is %v, which is no list", got)
	}
	texts := make([]string, 0, len(list))
	for _, each := range list {
		texts = append(texts, fmt.Sprint(each))
	}
	if !slices.Equal(texts, want) {
		return fmt.Errorf("aud is %q, in the token %q", texts, want)
	}
	return nil
}
