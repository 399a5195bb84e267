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

// apiRows judge the messages of the Workload API (SPIFFE Workload API).
func apiRows() []Row {
	return []Row{
		{ID: "WLAPI-01", Level: Must, Wants: "all methods of the X.509 and JWT profiles are there, or a profile is off as a whole", check: profiles},
		{ID: "WLAPI-02", Level: Must, Wants: "without the WIT profile, both its methods are Unimplemented", check: witProfile},
		{ID: "WLAPI-04", Level: Must, Wants: "the first message of a stream comes at once", check: atOnce},
		{ID: "WLAPI-09", Level: Should, Wants: "a mandatory field that is not set is InvalidArgument", check: mandatoryFields},
		{ID: "WLAPI-12", Level: Must, Wants: "FetchX509SVID gives an SVID, each with ID, certificate, key and bundle", check: completeSVIDs},
		{ID: "WLAPI-13", Level: Must, Wants: "certificates, key and bundle are bare DER that fits together", check: encodings},
		{ID: "WLAPI-14", Level: Must, Wants: "a hint that is set stands with one SVID of a message alone", check: ownHints},
		{ID: "WLAPI-16", Level: Should, Wants: "a hint has at most 1024 bytes", check: shortHints},
		{ID: "WLAPI-19", Level: Must, Wants: "bundles are keyed by the SPIFFE ID of a trust domain", check: bundleKeys},
		{ID: "WLAPI-20", Level: Must, Wants: "FetchX509Bundles has the own trust domain", check: ownX509Bundle},
		{ID: "WLAPI-21", Level: Must, Wants: "no key stands in both an X.509 and a JWT bundle", check: separateKeys},
		{ID: "WLAPI-22", Level: Must, Wants: "a token's aud is the audience that was asked for", check: askedAudience},
		{ID: "WLAPI-23", Level: Must, Wants: "spiffe_id chooses: none all, one that one, another's PermissionDenied, nonsense InvalidArgument", check: choosesID},
		{ID: "WLAPI-24", Level: Must, Wants: "FetchJWTBundles has the own trust domain, with JWT keys alone", check: ownJWTBundle},
	}
}

func profiles(ctx context.Context, p *probe) (string, error) {
	validate := p.validate(ctx, p.token(), socket.Audience).err
	x509On, err := profile("X.509", p.x509.err, p.x509Bundles.err)
	if err != nil {
		return "", err
	}
	jwtOn, err := profile("JWT", p.jwt.err, p.jwtBundles.err, validate)
	if err != nil {
		return "", err
	}
	if !x509On && !jwtOn {
		return "", fmt.Errorf("neither profile is served; FetchX509SVID gives %w", p.x509.err)
	}
	return fmt.Sprintf("X.509 profile on: %t; JWT profile on: %t", x509On, jwtOn), nil
}

// profile says whether all methods serve; that some do is an error.
func profile(name string, methods ...error) (on bool, err error) {
	served, refused := 0, 0
	for _, each := range methods {
		switch {
		case each == nil:
			served++
		case off(each):
			refused++
		default:
			return false, fmt.Errorf("a method of the %s profile gives %w", name, each)
		}
	}
	if served > 0 && refused > 0 {
		return false, fmt.Errorf("of the %s profile's methods %d serve and %d do not", name, served, refused)
	}
	return served > 0, nil
}

func witProfile(ctx context.Context, p *probe) (string, error) {
	seen := map[codes.Code]bool{}
	for _, method := range socket.Methods("") {
		if !method.WIT {
			continue
		}
		ctx, cancel := p.proper(ctx)
		code := status.Code(method.Call(ctx, p.client))
		cancel()
		if code != codes.OK && code != codes.Unimplemented && code != codes.PermissionDenied {
			return "", fmt.Errorf("%s gives %s", method.Name, code)
		}
		seen[code] = true
	}
	switch {
	case !seen[codes.Unimplemented]:
		return "the WIT profile is served", nil
	case len(seen) > 1:
		return "", errors.New("one method is Unimplemented, the other is not")
	}
	return "both are Unimplemented", nil
}

// mandatoryFields leaves out, in turn, each field that a request must have.
func mandatoryFields(ctx context.Context, p *probe) (string, error) {
	if _, err := p.tokens(); err != nil {
		return "", err
	}
	fetch := func(audience ...string) error {
		return ask(ctx, p, func(ctx context.Context) (*workload.JWTSVIDResponse, error) {
			return p.client.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: audience})
		}).err
	}
	for what, err := range map[string]error{
		"FetchJWTSVID without audience":       fetch(),
		"FetchJWTSVID with an empty audience": fetch(""),
		"ValidateJWTSVID without audience":    p.validate(ctx, p.token(), "").err,
		"ValidateJWTSVID without svid":        p.validate(ctx, "", socket.Audience).err,
	} {
		if code := status.Code(err); code != codes.InvalidArgument {
			return "", fmt.Errorf("%s gives %s", what, code)
		}
	}
	return "4 requests", nil
}

func (p *probe) validate(ctx context.Context, token, audience string) answer[*workload.ValidateJWTSVIDResponse] {
	return ask(ctx, p, func(ctx context.Context) (*workload.ValidateJWTSVIDResponse, error) {
		return p.client.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: audience, Svid: token})
	})
}

func completeSVIDs(_ context.Context, p *probe) (string, error) {
	svids, err := p.svids()
	if err != nil {
		return "", err
	}
	for i, svid := range svids {
		for field, length := range map[string]int{
			"spiffe_id": len(svid.GetSpiffeId()), "x509_svid": len(svid.GetX509Svid()),
			"x509_svid_key": len(svid.GetX509SvidKey()), "bundle": len(svid.GetBundle()),
		} {
			if length == 0 {
				return "", fmt.Errorf("SVID %d has no %s", i, field)
			}
		}
	}
	return fmt.Sprintf("%d SVIDs", len(svids)), nil
}

func encodings(_ context.Context, p *probe) (string, error) {
	chains, err := p.chains()
	if err != nil {
		return "", err
	}
	for _, c := range chains {
		if err := c.fits(); err != nil {
			return "", fmt.Errorf("the SVID of %s: %w", c.name, err)
		}
	}
	bundles, err := p.foreignBundles()
	if err != nil {
		return "", err
	}
	for id, der := range bundles {
		if _, err := strict.Certificates(der); err != nil {
			return "", fmt.Errorf("the X.509 bundle of %s %w", id, err)
		}
	}
	return fmt.Sprintf("%d SVIDs, %d bundles", len(chains), len(bundles)), nil
}

// foreignBundles gives the X.509 bundles that came beside the SVIDs, and those of
// FetchX509Bundles.
func (p *probe) foreignBundles() (map[string][]byte, error) {
	if p.x509Bundles.err != nil {
		return nil, fmt.Errorf("FetchX509Bundles gives %w", p.x509Bundles.err)
	}
	bundles := map[string][]byte{}
	for id, der := range p.x509Bundles.message.GetBundles() {
		bundles[id] = der
	}
	for id, der := range p.x509.message.GetFederatedBundles() {
		bundles[id+" beside the SVIDs"] = der
	}
	return bundles, nil
}

// fits checks that ID, key, certificate and bundle belong together.
func (c chain) fits() error {
	id, err := leafID(c.leaf)
	if err != nil {
		return fmt.Errorf("its certificate %w", err)
	}
	if id != c.name {
		return fmt.Errorf("its certificate says %s", id)
	}
	if public, ok := c.leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(c.key.Public()) {
		return errors.New("its key is not that of its certificate")
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, cert := range c.anchors {
		roots.AddCert(cert)
	}
	for _, cert := range c.intermediates {
		intermediates.AddCert(cert)
	}
	_, err = c.leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("its certificate does not verify with its own bundle: %w", err)
	}
	return nil
}

func ownHints(_ context.Context, p *probe) (string, error) {
	return p.eachHints(func(method string, hints []string) error {
		for i, hint := range hints {
			if hint != "" && slices.Contains(hints[:i], hint) {
				return fmt.Errorf("%s gives the hint %.100q twice", method, hint)
			}
		}
		return nil
	})
}

func shortHints(_ context.Context, p *probe) (string, error) {
	const most = 1024
	return p.eachHints(func(method string, hints []string) error {
		for _, hint := range hints {
			if len(hint) > most {
				return fmt.Errorf("%s gives a hint of %d bytes", method, len(hint))
			}
		}
		return nil
	})
}

// eachHints judges the hints of each message that has SVIDs.
func (p *probe) eachHints(judge func(method string, hints []string) error) (string, error) {
	svids, err := p.svids()
	if err != nil {
		return "", err
	}
	var x509, jwt []string
	for _, svid := range svids {
		x509 = append(x509, svid.GetHint())
	}
	for _, svid := range p.jwt.message.GetSvids() {
		jwt = append(jwt, svid.GetHint())
	}
	set := len(slices.DeleteFunc(slices.Concat(x509, jwt), func(hint string) bool { return hint == "" }))
	return fmt.Sprintf("%d hints, of %d SVIDs", set, len(x509)+len(jwt)), errors.Join(judge("FetchX509SVID", x509), judge("FetchJWTSVID", jwt))
}

func bundleKeys(_ context.Context, p *probe) (string, error) {
	if _, err := p.home(); err != nil {
		return "", err
	}
	names := slices.Concat(keysOf(p.x509.message.GetFederatedBundles()),
		keysOf(p.x509Bundles.message.GetBundles()), keysOf(p.jwtBundles.message.GetBundles()))
	for _, name := range names {
		if _, path, err := strict.ID(name); err != nil || path != "" {
			return "", fmt.Errorf("a bundle's key is %q", name)
		}
	}
	return fmt.Sprintf("%d keys", len(names)), nil
}

func keysOf(bundles map[string][]byte) []string {
	names := make([]string, 0, len(bundles))
	for name := range bundles {
		names = append(names, name)
	}
	return names
}

func ownX509Bundle(_ context.Context, p *probe) (string, error) {
	chains, err := p.chains()
	if err != nil {
		return "", err
	}
	bundles, err := p.foreignBundles()
	if err != nil {
		return "", err
	}
	for _, c := range chains {
		trustDomain, _, err := strict.ID(c.name)
		if err != nil {
			return "", err
		}
		certs, err := strict.Certificates(bundles["spiffe://"+trustDomain])
		if err != nil {
			return "", fmt.Errorf("the bundle of %s %w", trustDomain, err)
		}
		if !slices.ContainsFunc(certs, c.anchors[0].Equal) {
			return "", fmt.Errorf("the bundle of %s lacks an anchor that came with the SVID", trustDomain)
		}
	}
	return fmt.Sprintf("%d bundles", len(p.x509Bundles.message.GetBundles())), nil
}

func separateKeys(_ context.Context, p *probe) (string, error) {
	if _, err := p.svids(); err != nil {
		return "", err
	}
	bundles, err := p.foreignBundles()
	if err != nil {
		return "", err
	}
	anchors := map[string]string{} // public key → where it was
	for id, der := range bundles {
		certs, err := strict.Certificates(der)
		if err != nil {
			return "", fmt.Errorf("the X.509 bundle of %s %w", id, err)
		}
		for _, cert := range certs {
			anchors[string(cert.RawSubjectPublicKeyInfo)] = id
		}
	}
	count, err := p.eachJWK(func(_ string, jwk map[string]any) error {
		key, err := strict.PublicKey(jwk)
		if err != nil {
			return err
		}
		raw, err := strict.PublicKeyBytes(key)
		if id, both := anchors[raw]; err == nil && both {
			err = fmt.Errorf("it is also in the X.509 bundle of %s", id)
		}
		return err
	})
	return fmt.Sprintf("%d X.509 and %d JWT keys", len(anchors), count), err
}

func askedAudience(ctx context.Context, p *probe) (string, error) {
	if _, err := p.tokens(); err != nil {
		return "", err
	}
	for _, audience := range [][]string{{"reports"}, {"spiffe://elsewhere.example/reports", "billing"}, {"twice", "twice"}} {
		reply, err := p.fetchJWT(ctx, audience, "")
		if err != nil {
			return "", fmt.Errorf("FetchJWTSVID for %q gives %w", audience, err)
		}
		for _, svid := range reply.GetSvids() {
			got, err := audienceOf(svid.GetSvid())
			if err != nil {
				return "", err
			}
			if !sameSet(got, audience) {
				return "", fmt.Errorf("asked for %q, the token of %s has %q", audience, svid.GetSpiffeId(), got)
			}
		}
	}
	return "one audience, two, and the same twice", nil
}

func (p *probe) fetchJWT(ctx context.Context, audience []string, id string) (*workload.JWTSVIDResponse, error) {
	reply := ask(ctx, p, func(ctx context.Context) (*workload.JWTSVIDResponse, error) {
		return p.client.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: audience, SpiffeId: id})
	})
	if reply.err == nil && len(reply.message.GetSvids()) == 0 {
		reply.err = errors.New("no SVID and no error")
	}
	return reply.message, reply.err
}

func audienceOf(compact string) ([]string, error) {
	token, err := strict.DecodeToken(compact)
	if err != nil {
		return nil, fmt.Errorf("a token %w", err)
	}
	return token.Audience()
}

func sameSet(a, b []string) bool {
	sorted := func(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }
	return slices.Equal(sorted(a), sorted(b))
}

func choosesID(ctx context.Context, p *probe) (string, error) {
	tokens, err := p.tokens()
	if err != nil {
		return "", err
	}
	if err := p.allIdentities(tokens); err != nil {
		return "", err
	}
	for _, each := range tokens {
		reply, err := p.fetchJWT(ctx, []string{socket.Audience}, each.GetSpiffeId())
		if err != nil {
			return "", fmt.Errorf("FetchJWTSVID for %s gives %w", each.GetSpiffeId(), err)
		}
		for _, got := range reply.GetSvids() {
			if got.GetSpiffeId() != each.GetSpiffeId() {
				return "", fmt.Errorf("asked for %s alone, it gives %s too", each.GetSpiffeId(), got.GetSpiffeId())
			}
		}
	}
	return "each identity by name, others' and malformed ones", p.refusesID(ctx)
}

// allIdentities checks that the same identities come as tokens and certificates.
func (p *probe) allIdentities(tokens []*workload.JWTSVID) error {
	svids, err := p.svids()
	if errors.Is(err, x509Off) {
		return nil
	}
	if err != nil {
		return err
	}
	var byToken, byCert []string
	for _, each := range tokens {
		byToken = append(byToken, each.GetSpiffeId())
	}
	for _, each := range svids {
		byCert = append(byCert, each.GetSpiffeId())
	}
	if !sameSet(byToken, byCert) {
		return fmt.Errorf("without spiffe_id, FetchJWTSVID gives %q, FetchX509SVID %q", byToken, byCert)
	}
	return nil
}

func (p *probe) refusesID(ctx context.Context) error {
	home, err := p.home()
	if err != nil {
		return err
	}
	want := map[string]codes.Code{
		home + "/nobody-has-this-identity":   codes.PermissionDenied,
		"spiffe://elsewhere.example/reports": codes.PermissionDenied,
	}
	for _, malformed := range []string{"nonsense", "https://elsewhere.example/x", "spiffe://", home + "//x", home + "/x?y", home + "/x/../y"} {
		want[malformed] = codes.InvalidArgument
	}
	for id, code := range want {
		_, err := p.fetchJWT(ctx, []string{socket.Audience}, id)
		if status.Code(err) != code {
			return fmt.Errorf("FetchJWTSVID for %q gives %s, not %s", id, status.Code(err), code)
		}
	}
	return nil
}

func ownJWTBundle(_ context.Context, p *probe) (string, error) {
	sets, err := p.sets()
	if err != nil {
		return "", err
	}
	home, err := p.home()
	if err != nil {
		return "", err
	}
	if _, there := sets[home]; !there {
		return "", fmt.Errorf("it has no bundle of %s", home)
	}
	count, err := p.eachJWK(func(_ string, jwk map[string]any) error {
		_, x5c := jwk["x5c"]
		if use, given := jwk["use"]; (given && use != "jwt-svid") || x5c {
			return fmt.Errorf("it is of another use: use %v, x5c there: %t", use, x5c)
		}
		return nil
	})
	return fmt.Sprintf("%d bundles, %d keys", len(sets), count), err
}
