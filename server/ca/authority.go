package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/server/store"
)

// Lifetimes of authorities and what follows from them.
const (
	anchorLife = 10 * 365 * 24 * time.Hour
	issuerLife = 7 * 24 * time.Hour
	jwtKeyLife = 90 * 24 * time.Hour

	// issuerLead is how long before its end an issuer is replaced, unless a
	// tenant's lifetimes are longer. Its successor travels with each chain and
	// can be used at once.
	issuerLead = 24 * time.Hour
	// A JWT key is replaced jwtKeyLead before its end; its successor is in the
	// bundle for jwtKeyPublish before the first token is signed with it.
	jwtKeyLead    = 7 * 24 * time.Hour
	jwtKeyPublish = 24 * time.Hour

	// authorityBackdate keeps verifiers whose clocks are behind from refusing a
	// new authority.
	authorityBackdate = time.Minute
)

// parentOf gives the purpose of the authority that signs one of purpose p; ""
// for anchors and JWT keys.
func parentOf(p store.Purpose) store.Purpose {
	switch p {
	case store.WorkloadIssuer:
		return store.WorkloadAnchor
	case store.NodeIssuer:
		return store.NodeAnchor
	}
	return ""
}

// authority is one being made: the row to store and, until it is put away, its
// private key.
type authority struct {
	row  store.Authority
	cert *x509.Certificate // nil for a JWT key
	key  *ecdsa.PrivateKey
}

// firstAuthorities makes all authorities of a new tenant.
func (c *CA) firstAuthorities(ctx context.Context, tenant string, domain spiffeid.TrustDomain) ([]store.Authority, error) {
	var rows []store.Authority
	for _, pair := range [][2]store.Purpose{
		{store.WorkloadAnchor, store.WorkloadIssuer},
		{store.NodeAnchor, store.NodeIssuer},
	} {
		anchor, err := c.makeAuthority(ctx, tenant, domain, pair[0], nil)
		if err != nil {
			return nil, err
		}
		issuer, err := c.makeAuthority(ctx, tenant, domain, pair[1], anchor)
		forget(anchor.key)
		if err != nil {
			return nil, err
		}
		forget(issuer.key)
		rows = append(rows, anchor.row, issuer.row)
	}
	jwtKey, err := c.makeAuthority(ctx, tenant, domain, store.JWTKey, nil)
	if err != nil {
		return nil, err
	}
	forget(jwtKey.key)
	return append(rows, jwtKey.row), nil
}

// makeAuthority makes a key, the certificate that goes with its purpose, and
// the row that holds both, the key wrapped. parent signs it; nil for anchors
// (they sign themselves) and JWT keys. The caller forgets the key.
func (c *CA) makeAuthority(ctx context.Context, tenant string, domain spiffeid.TrustDomain, p store.Purpose, parent *authority) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of a %s: %w", p, err)
	}
	a := &authority{key: key}
	if err := c.describe(a, tenant, domain, p, parent); err != nil {
		forget(key)
		return nil, err
	}
	if err := c.wrap(ctx, a); err != nil {
		forget(key)
		return nil, err
	}
	return a, nil
}

// describe fills in everything of a's row but the wrapped key.
func (c *CA) describe(a *authority, tenant string, domain spiffeid.TrustDomain, p store.Purpose, parent *authority) error {
	spki, err := x509.MarshalPKIXPublicKey(a.key.Public())
	if err != nil {
		return fmt.Errorf("encode the public key of a %s: %w", p, err)
	}
	now := c.now().UTC().Truncate(time.Second)
	a.row = store.Authority{
		ID:          hex.EncodeToString(keyID(spki)),
		Tenant:      tenant,
		TrustDomain: domain.Name(),
		Purpose:     p,
		SPKI:        spki,
		CreatedAt:   now,
		ExpiresAt:   now.Add(lifeOf(p)),
	}
	if p == store.JWTKey {
		return nil
	}
	if parent != nil {
		a.row.Issuer = parent.row.ID
	}
	return c.certify(a, domain, parent)
}

// certify makes a's certificate, signed by parent or by itself.
func (c *CA) certify(a *authority, domain spiffeid.TrustDomain, parent *authority) error {
	serial, err := c.newSerial()
	if err != nil {
		return err
	}
	tmpl := authorityTemplate(a.row, domain)
	tmpl.SerialNumber = new(big.Int).SetBytes(serial)
	issuer, issuerKey := tmpl, a.key
	if parent != nil {
		issuer, issuerKey = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(nil, tmpl, issuer, a.key.Public(), issuerKey)
	if err != nil {
		return fmt.Errorf("sign a %s: %w", a.row.Purpose, err)
	}
	if err := svid.LintAuthority(der); err != nil {
		return fmt.Errorf("check a new %s: %w", a.row.Purpose, err)
	}
	a.row.Certificate = der
	a.cert, err = x509.ParseCertificate(der)
	return err
}

// authorityTemplate is the profile of anchors and issuers: both carry the ID of
// the trust domain and no extended key usage (X509-SVID section 4).
func authorityTemplate(row store.Authority, domain spiffeid.TrustDomain) *x509.Certificate {
	tmpl := &x509.Certificate{
		Subject:               authorityName(row, domain),
		NotBefore:             row.CreatedAt.Add(-authorityBackdate),
		NotAfter:              row.ExpiresAt,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1,
		SubjectKeyId:          keyID(row.SPKI),
		URIs:                  []*url.URL{domain.ID().URL()},
	}
	if parentOf(row.Purpose) != "" {
		tmpl.MaxPathLen, tmpl.MaxPathLenZero = 0, true
	}
	return tmpl
}

// authorityName gives an authority a subject that no other tenant's and no
// other purpose's has. Issuers show the server's well-known name, which is text
// for people: the only SPIFFE ID in the certificate is the trust domain's.
func authorityName(row store.Authority, domain spiffeid.TrustDomain) pkix.Name {
	text := domain.IDString()
	if parentOf(row.Purpose) != "" {
		text += "/spire/server"
	}
	name := nameOf(text)
	name.Organization = []string{fit(row.Tenant)}
	name.OrganizationalUnit = []string{string(row.Purpose)}
	return name
}

func lifeOf(p store.Purpose) time.Duration {
	switch p {
	case store.JWTKey:
		return jwtKeyLife
	case store.WorkloadIssuer, store.NodeIssuer:
		return issuerLife
	}
	return anchorLife
}

// wrap stores a's private key in its row, wrapped.
func (c *CA) wrap(ctx context.Context, a *authority) error {
	plain, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return fmt.Errorf("encode the key of a %s: %w", a.row.Purpose, err)
	}
	defer clear(plain)
	a.row.WrappedKey, err = c.custody.Wrap(ctx, a.row.Tenant, plain, keyContext(a.row))
	if err != nil {
		return fmt.Errorf("wrap the key of a %s: %w", a.row.Purpose, err)
	}
	return nil
}

// unwrap gives the private key of row, which must be the one of its public key.
// The caller forgets it.
func (c *CA) unwrap(ctx context.Context, row store.Authority) (*ecdsa.PrivateKey, error) {
	plain, err := c.custody.Unwrap(ctx, row.Tenant, row.WrappedKey, keyContext(row))
	if err != nil {
		return nil, fmt.Errorf("unwrap the key of a %s: %w", row.Purpose, err)
	}
	defer clear(plain)
	parsed, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return nil, fmt.Errorf("read the key of a %s: %w", row.Purpose, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key of a %s is a %T", row.Purpose, parsed)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil || !bytes.Equal(spki, row.SPKI) {
		forget(key)
		return nil, fmt.Errorf("the key of %s %s is not the one of its public key", row.Purpose, row.ID)
	}
	return key, nil
}

// open unwraps an authority and checks that row, certificate and key are of one
// piece and of this tenant.
func (c *CA) open(ctx context.Context, v *view, row store.Authority) (*authority, error) {
	if row.Tenant != v.tenant.ID || row.TrustDomain != v.domain.Name() {
		return nil, fmt.Errorf("authority %s belongs to tenant %q and trust domain %q", row.ID, row.Tenant, row.TrustDomain)
	}
	a := &authority{row: row}
	if row.Purpose != store.JWTKey {
		cert, err := x509.ParseCertificate(row.Certificate)
		if err != nil {
			return nil, fmt.Errorf("read the certificate of authority %s: %w", row.ID, err)
		}
		if !bytes.Equal(cert.RawSubjectPublicKeyInfo, row.SPKI) {
			return nil, fmt.Errorf("the certificate of authority %s is for another key", row.ID)
		}
		a.cert = cert
	}
	var err error
	if a.key, err = c.unwrap(ctx, row); err != nil {
		return nil, err
	}
	return a, nil
}

// keyContext binds a wrapped key to its use: tenant, purpose, key id and the
// hash of its public key, each with its length in front.
func keyContext(row store.Authority) []byte {
	digest := sha256.Sum256(row.SPKI)
	out := []byte("icp authority key v1")
	for _, field := range [][]byte{[]byte(row.Tenant), []byte(row.Purpose), []byte(row.ID), digest[:]} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(field)))
		out = append(out, field...)
	}
	return out
}

// keyID is the SHA-256 of a SubjectPublicKeyInfo, cut to 160 bits (RFC 7093
// section 2, method 4): subject key identifier and JWK kid.
func keyID(spki []byte) []byte {
	digest := sha256.Sum256(spki)
	return digest[:20]
}

// forget overwrites a private key. Copies that the runtime or the cryptographic
// library made are out of our reach.
func forget(key *ecdsa.PrivateKey) {
	if key == nil {
		return
	}
	//lint:ignore SA1019 the deprecated field is where the secret lies
	clear(key.D.Bits())
}

// serialBytes is the length of serial numbers and token ids.
const serialBytes = 16

// newSerial gives a random serial number: positive, and always 16 bytes long,
// so that it has one spelling in hex. 126 of its bits are random.
func (c *CA) newSerial() ([]byte, error) {
	serial := make([]byte, serialBytes)
	if _, err := io.ReadFull(c.rand, serial); err != nil {
		return nil, fmt.Errorf("read randomness for a serial number: %w", err)
	}
	serial[0] = serial[0]&0x3f | 0x40
	return serial, nil
}

var errNoAuthority = errors.New("no authority is valid for long enough")
