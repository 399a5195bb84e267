package workloadapi

import (
	"context"
	"crypto/x509"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/authsec-ai/icp/agent/cache"
	"github.com/authsec-ai/icp/agent/session"
	"github.com/authsec-ai/icp/identity"
)

// FetchX509SVID streams the caller's X.509-SVIDs, default first, with their
// keys and bundles (SPIFFE Workload API section 5.2.1).
func (s *Server) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return follow(s.sessions, stream, s.x509Response)
}

// FetchX509Bundles streams the X.509 bundles of the caller's own trust domain
// and of federated ones (section 5.2.2).
func (s *Server) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return follow(s.sessions, stream, x509Bundles)
}

func (s *Server) x509Response(ctx context.Context, watch *session.Watch) (*workload.X509SVIDResponse, error) {
	u, err := watch.Update(ctx)
	if err != nil {
		return nil, err
	}
	own, err := ownX509(u)
	if err != nil {
		return nil, err
	}
	hints := newHints(s.log)
	response := &workload.X509SVIDResponse{Svids: make([]*workload.X509SVID, 0, len(u.Identities))}
	for _, each := range u.Identities {
		response.Svids = append(response.Svids, &workload.X509SVID{
			SpiffeId:    each.SVID.ID.String(),
			X509Svid:    each.ChainDER,
			X509SvidKey: each.KeyDER,
			Bundle:      own[each.SVID.ID.TrustDomain()],
			Hint:        hints.once(each.SVID.ID, each.SVID.Hint),
		})
	}
	response.FederatedBundles = encodeX509(u.Bundles, own)
	return response, nil
}

func x509Bundles(_ context.Context, watch *session.Watch) (*workload.X509BundlesResponse, error) {
	bundles, err := watch.Bundles()
	if err != nil {
		return nil, err
	}
	encoded := encodeX509(bundles, nil)
	if len(encoded) == 0 {
		return nil, identity.Errorf(identity.Unavailable, "the agent has no X.509 bundle yet; try again shortly")
	}
	return &workload.X509BundlesResponse{Bundles: encoded}, nil
}

// ownX509 gives the bundles, as concatenated DER, of the trust domains that the
// caller has identities in. Each must have an authority: the field is mandatory.
func ownX509(u *cache.Update) (map[spiffeid.TrustDomain][]byte, error) {
	own := map[spiffeid.TrustDomain][]byte{}
	for _, each := range u.Identities {
		td := each.SVID.ID.TrustDomain()
		if own[td] != nil {
			continue
		}
		if own[td] = x509DER(u.Bundles[td]); len(own[td]) == 0 {
			return nil, identity.Errorf(identity.Unavailable,
				"the agent has no X.509 bundle of trust domain %s yet; try again shortly", td)
		}
	}
	return own, nil
}

// encodeX509 gives bundles by trust domain ID, without those in except. One
// without authorities is left out: its absence says the same, that nothing of
// it is trusted, and clients refuse an empty one together with everything else.
func encodeX509(bundles session.Bundles, except map[spiffeid.TrustDomain][]byte) map[string][]byte {
	encoded := map[string][]byte{}
	for td, bundle := range bundles {
		if _, ok := except[td]; ok {
			continue
		}
		if der := x509DER(bundle); len(der) > 0 {
			encoded[td.IDString()] = der
		}
	}
	return encoded
}

func x509DER(bundle *spiffebundle.Bundle) []byte {
	if bundle == nil {
		return nil
	}
	return concatDER(bundle.X509Authorities())
}

func concatDER(certs []*x509.Certificate) []byte {
	var der []byte
	for _, cert := range certs {
		der = append(der, cert.Raw...)
	}
	return der
}
