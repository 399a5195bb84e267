package sds

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/authsec-ai/icp/identity"
)

// resolver answers names from one Update.
type resolver struct {
	*Server
	update *Update
	plain  bool // bundles as a plain list of CAs
}

func (s *Server) resolver(u *Update, node *corev3.Node) resolver {
	return resolver{Server: s, update: u, plain: s.plain || asksPlain(node)}
}

// asksPlain reads the node metadata by which an Envoy opts out of the SPIFFE
// validator; both a flag and the text "true" are in use.
func asksPlain(node *corev3.Node) bool {
	field := node.GetMetadata().GetFields()["disable_spiffe_cert_validation"]
	switch v := field.GetKind().(type) {
	case *structpb.Value_BoolValue:
		return v.BoolValue
	case *structpb.Value_StringValue:
		return v.StringValue == "true"
	}
	return false
}

// resolve gives the secret called name: nil while it is held, an error if it
// can never be the caller's.
func (r resolver) resolve(name string) (*resource, error) {
	switch name {
	case r.names.identity:
		return certificate(name, r.update.SVIDs[0])
	case r.names.bundle:
		return r.bundle(name, r.update.SVIDs[0].ID.TrustDomain())
	case r.names.all:
		return r.all(name)
	}
	id, err := identity.ParseID(name)
	switch {
	case err != nil:
		return nil, status.Errorf(codes.InvalidArgument,
			"%q names no secret: ask for %q, %q, %q, a SPIFFE ID or a trust domain's ID",
			identity.Clip(name), r.names.identity, r.names.bundle, r.names.all)
	case id.Path() == "":
		return r.bundle(name, id.TrustDomain())
	}
	return r.svid(name, id)
}

func (r resolver) svid(name string, id spiffeid.ID) (*resource, error) {
	for _, svid := range r.update.SVIDs {
		if svid.ID == id {
			return certificate(name, svid)
		}
	}
	if !r.owns(id.TrustDomain()) || r.refuseUnissued {
		return nil, status.Errorf(codes.InvalidArgument, "the caller is not entitled to %q", identity.Clip(name))
	}
	return nil, nil
}

// owns reports whether the caller has an identity in td.
func (r resolver) owns(td spiffeid.TrustDomain) bool {
	for _, svid := range r.update.SVIDs {
		if svid.ID.TrustDomain() == td {
			return true
		}
	}
	return false
}

// bundle gives the bundle of td. One that is not there yet is held: federation
// may bring it.
func (r resolver) bundle(name string, td spiffeid.TrustDomain) (*resource, error) {
	for _, bundle := range r.update.Bundles {
		switch {
		case bundle.TrustDomain() != td || bundle.Empty():
			continue
		case r.plain:
			return plainCAs(name, bundle)
		}
		return validator(name, []*x509bundle.Bundle{bundle})
	}
	return nil, nil
}

func (r resolver) all(name string) (*resource, error) {
	if r.plain {
		return nil, status.Errorf(codes.InvalidArgument,
			"%q needs Envoy's SPIFFE validator: a plain list of CAs would let every trust domain speak for every other", name)
	}
	bundles := usable(r.update.Bundles)
	if len(bundles) == 0 {
		return nil, nil
	}
	return validator(name, bundles)
}

// everything gives the names of all that the caller may have.
func (r resolver) everything() []string {
	var list []string
	for _, svid := range r.update.SVIDs {
		list = append(list, svid.ID.String())
	}
	for _, bundle := range usable(r.update.Bundles) {
		list = append(list, bundle.TrustDomain().IDString())
	}
	return list
}

// resolveAll gives the secrets for wanted in its order, without repetitions
// and without those that are held, whose names it gives too.
func (r resolver) resolveAll(wanted []string) (list []*resource, held []string, err error) {
	seen := map[string]bool{}
	for _, name := range wanted {
		if seen[name] {
			continue
		}
		seen[name] = true
		res, err := r.resolve(name)
		switch {
		case err != nil:
			return nil, nil, err
		case res == nil:
			held = append(held, name)
		default:
			list = append(list, res)
		}
	}
	return list, held, nil
}

// wanted drops empty names, which some Envoys send for "everything".
func wanted(requested []string) []string {
	return slices.DeleteFunc(slices.Clone(requested), func(name string) bool { return name == "" })
}
