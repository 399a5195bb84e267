package sds

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	secretType    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	validatorName = "envoy.tls.cert_validator.spiffe"
)

// resource is one secret as it goes to Envoy.
type resource struct {
	name    string
	version string // hash of the content without private keys
	body    *anypb.Any
}

// certificate makes the secret that holds an SVID: chain and PKCS #8 key, PEM.
func certificate(name string, svid *x509svid.SVID) (*resource, error) {
	chain, key, err := svid.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode the SVID of %s: %w", svid.ID, err)
	}
	return newResource(name, chain, &tlsv3.Secret{
		Name: name,
		Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(chain),
			PrivateKey:       inline(key),
		}},
	})
}

// validator makes the secret that has Envoy pick the bundle by the trust domain
// of the peer's ID.
func validator(name string, bundles []*x509bundle.Bundle) (*resource, error) {
	config := &tlsv3.SPIFFECertValidatorConfig{}
	var content []byte
	for _, bundle := range bundles {
		cas := bundlePEM(bundle)
		config.TrustDomains = append(config.TrustDomains, &tlsv3.SPIFFECertValidatorConfig_TrustDomain{
			Name:        bundle.TrustDomain().Name(),
			TrustBundle: inline(cas),
		})
		content = append(append(content, bundle.TrustDomain().IDString()...), cas...)
	}
	typed, err := anypb.New(config)
	if err != nil {
		return nil, fmt.Errorf("encode the SPIFFE validator of %s: %w", name, err)
	}
	return newResource(name, content, validationSecret(name, &tlsv3.CertificateValidationContext{
		CustomValidatorConfig: &corev3.TypedExtensionConfig{Name: validatorName, TypedConfig: typed},
	}))
}

// plainCAs makes the secret for an Envoy without the SPIFFE validator.
func plainCAs(name string, bundle *x509bundle.Bundle) (*resource, error) {
	cas := bundlePEM(bundle)
	return newResource(name, cas, validationSecret(name, &tlsv3.CertificateValidationContext{TrustedCa: inline(cas)}))
}

func validationSecret(name string, c *tlsv3.CertificateValidationContext) *tlsv3.Secret {
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: c}}
}

func newResource(name string, content []byte, secret *tlsv3.Secret) (*resource, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(secret)
	if err != nil {
		return nil, fmt.Errorf("encode the secret %s: %w", name, err)
	}
	digest := sha256.Sum256(append([]byte(name+"\n"), content...))
	return &resource{
		name:    name,
		version: hex.EncodeToString(digest[:16]),
		body:    &anypb.Any{TypeUrl: secretType, Value: raw},
	}, nil
}

// versionOf gives one version for a list of resources.
func versionOf(list []*resource) string {
	if len(list) == 1 {
		return list[0].version
	}
	digest := sha256.New()
	for _, r := range list {
		digest.Write([]byte(r.version))
	}
	return hex.EncodeToString(digest.Sum(nil)[:16])
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

func bundlePEM(bundle *x509bundle.Bundle) []byte {
	var out bytes.Buffer
	for _, ca := range bundle.X509Authorities() {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}))
	}
	return out.Bytes()
}

// usable gives the bundles that hold an authority, sorted by trust domain.
// Envoy refuses a validator with an empty one.
func usable(bundles []*x509bundle.Bundle) []*x509bundle.Bundle {
	var list []*x509bundle.Bundle
	for _, bundle := range bundles {
		if !bundle.Empty() {
			list = append(list, bundle)
		}
	}
	slices.SortFunc(list, func(a, b *x509bundle.Bundle) int {
		return strings.Compare(a.TrustDomain().Name(), b.TrustDomain().Name())
	})
	return list
}
