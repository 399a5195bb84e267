package conform

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/strict"
)

// probe is what the rows share: a connection, and what the endpoint gave this
// process at the start. Rows that judge documents judge these.
type probe struct {
	Settings
	client *socket.Client

	x509        answer[*workload.X509SVIDResponse]
	x509Bundles answer[*workload.X509BundlesResponse]
	jwt         answer[*workload.JWTSVIDResponse]
	jwtBundles  answer[*workload.JWTBundlesResponse]

	seenByOther *answer[Stranger] // nil before it is asked for
}

// answer is a message, or why there is none.
type answer[T any] struct {
	message T
	err     error
}

func newProbe(ctx context.Context, s Settings, client *socket.Client) *probe {
	p := &probe{Settings: s, client: client}
	p.x509 = ask(ctx, p, p.fetchX509)
	p.x509Bundles = ask(ctx, p, func(ctx context.Context) (*workload.X509BundlesResponse, error) {
		return socket.First(ctx, client.FetchX509Bundles, &workload.X509BundlesRequest{})
	})
	p.jwt = ask(ctx, p, func(ctx context.Context) (*workload.JWTSVIDResponse, error) {
		return client.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{socket.Audience}})
	})
	p.jwtBundles = ask(ctx, p, func(ctx context.Context) (*workload.JWTBundlesResponse, error) {
		return socket.First(ctx, client.FetchJWTBundles, &workload.JWTBundlesRequest{})
	})
	return p
}

func (p *probe) fetchX509(ctx context.Context) (*workload.X509SVIDResponse, error) {
	return socket.First(ctx, p.client.FetchX509SVID, &workload.X509SVIDRequest{})
}

func ask[T any](ctx context.Context, p *probe, call func(context.Context) (T, error)) answer[T] {
	ctx, cancel := p.proper(ctx)
	defer cancel()
	message, err := call(ctx)
	return answer[T]{message, err}
}

// proper gives a context for one request in order.
func (p *probe) proper(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(socket.Proper(ctx), p.Timeout)
}

// off says whether an error is how an endpoint answers for a profile that its
// operator has switched off.
func off(err error) bool {
	code := status.Code(err)
	return code == codes.Unimplemented || code == codes.PermissionDenied
}

const (
	x509Off = notSeen("the X.509-SVID profile is switched off")
	jwtOff  = notSeen("the JWT-SVID profile is switched off")
)

// svids gives the X.509-SVIDs of this process.
func (p *probe) svids() ([]*workload.X509SVID, error) {
	switch {
	case p.x509.err != nil && off(p.x509.err) && p.jwt.err == nil:
		return nil, x509Off
	case p.x509.err != nil:
		return nil, fmt.Errorf("FetchX509SVID gives %w", p.x509.err)
	case len(p.x509.message.GetSvids()) == 0:
		return nil, errors.New("FetchX509SVID gives no SVID")
	}
	return p.x509.message.GetSvids(), nil
}

// chain is an X.509-SVID that has been read: the SVID itself, signing
// certificates that came with it, and the anchors of its trust domain.
type chain struct {
	name          string // for messages
	leaf          *x509.Certificate
	intermediates []*x509.Certificate
	anchors       []*x509.Certificate
	key           crypto.Signer
}

// signers gives the certificates that may sign.
func (c chain) signers() []*x509.Certificate { return slices.Concat(c.intermediates, c.anchors) }

// chains reads all X.509-SVIDs.
func (p *probe) chains() ([]chain, error) {
	svids, err := p.svids()
	if err != nil {
		return nil, err
	}
	chains := make([]chain, len(svids))
	for i, svid := range svids {
		if chains[i], err = readChain(svid); err != nil {
			return nil, err
		}
	}
	return chains, nil
}

func readChain(svid *workload.X509SVID) (chain, error) {
	c := chain{name: svid.GetSpiffeId()}
	certs, err := strict.Certificates(svid.GetX509Svid())
	if err != nil {
		return chain{}, fmt.Errorf("x509_svid of %s %w", c.name, err)
	}
	c.leaf, c.intermediates = certs[0], certs[1:]
	if c.anchors, err = strict.Certificates(svid.GetBundle()); err != nil {
		return chain{}, fmt.Errorf("bundle of %s %w", c.name, err)
	}
	if c.key, err = strict.PrivateKey(svid.GetX509SvidKey()); err != nil {
		return chain{}, fmt.Errorf("x509_svid_key of %s %w", c.name, err)
	}
	return c, nil
}

// tokens gives the JWT-SVIDs of this process in their compact form.
func (p *probe) tokens() ([]*workload.JWTSVID, error) {
	switch {
	case p.jwt.err != nil && off(p.jwt.err) && p.x509.err == nil:
		return nil, jwtOff
	case p.jwt.err != nil:
		return nil, fmt.Errorf("FetchJWTSVID gives %w", p.jwt.err)
	case len(p.jwt.message.GetSvids()) == 0:
		return nil, errors.New("FetchJWTSVID gives no SVID")
	}
	return p.jwt.message.GetSvids(), nil
}

// token gives the first token, or "" if there is none: for requests whose
// refusal must not depend on it.
func (p *probe) token() string {
	tokens, err := p.tokens()
	if err != nil {
		return ""
	}
	return tokens[0].GetSvid()
}

// sets reads the JWK Sets that FetchJWTBundles gave, by trust domain ID.
func (p *probe) sets() (map[string]map[string]any, error) {
	switch {
	case p.jwtBundles.err != nil && off(p.jwtBundles.err) && p.x509.err == nil:
		return nil, jwtOff
	case p.jwtBundles.err != nil:
		return nil, fmt.Errorf("FetchJWTBundles gives %w", p.jwtBundles.err)
	case len(p.jwtBundles.message.GetBundles()) == 0:
		return nil, errors.New("FetchJWTBundles gives no bundle")
	}
	sets := map[string]map[string]any{}
	for id, raw := range p.jwtBundles.message.GetBundles() {
		set, err := strict.Object(raw)
		if err != nil {
			return nil, fmt.Errorf("the JWT bundle of %s %w", id, err)
		}
		sets[id] = set
	}
	return sets, nil
}

// eachJWK calls check with every key of every JWT bundle.
func (p *probe) eachJWK(check func(trustDomain string, jwk map[string]any) error) (count int, err error) {
	sets, err := p.sets()
	if err != nil {
		return 0, err
	}
	for id, set := range sets {
		keys, err := strict.Keys(set)
		if err != nil {
			return 0, fmt.Errorf("the JWT bundle of %s: %w", id, err)
		}
		for i, jwk := range keys {
			if err := check(id, jwk); err != nil {
				return 0, fmt.Errorf("key %d of the JWT bundle of %s: %w", i, id, err)
			}
		}
		count += len(keys)
	}
	return count, nil
}

// home gives the trust domain's ID of an SVID of this process.
func (p *probe) home() (string, error) {
	var id string
	if svids, err := p.svids(); err == nil {
		id = svids[0].GetSpiffeId()
	} else if tokens, other := p.tokens(); other == nil {
		id = tokens[0].GetSpiffeId()
	} else {
		return "", err
	}
	trustDomain, _, err := strict.ID(id)
	return "spiffe://" + trustDomain, err
}
