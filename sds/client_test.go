package sds_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/authsec-ai/icp/agent/agenttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience   = 20 * time.Second
	secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

var (
	td   = spiffeid.RequireTrustDomainFromString("edge.test")
	edge = spiffeid.RequireFromPath(td, "/edge")
	web  = spiffeid.RequireFromPath(td, "/web")
	me   = fmt.Sprintf("unix:uid:%d", os.Getuid())
)

// start serves an agent on which the test process is entitled to ids.
func start(t testing.TB, options agenttest.Options, ids ...spiffeid.ID) *agenttest.Agent {
	t.Helper()
	agent := agenttest.Start(t, td.Name(), options)
	for _, id := range ids {
		put(agent, id)
	}
	return agent
}

// put issues id, anew if it is there.
func put(agent *agenttest.Agent, id spiffeid.ID) {
	agent.Cache.Put(agenttest.Entry{ID: id, Selector: me})
}

func client(t testing.TB, agent *agenttest.Agent) secretv3.SecretDiscoveryServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(agent.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the test is over
	return secretv3.NewSecretDiscoveryServiceClient(conn)
}

func limited(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// bidi is one stream of either variant.
type bidi[Req, Resp any] struct {
	t      testing.TB
	stream grpc.BidiStreamingClient[Req, Resp]
}

type (
	sotwClient  = bidi[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]
	deltaClient = bidi[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]
)

func openSotW(t testing.TB, agent *agenttest.Agent) sotwClient {
	t.Helper()
	stream, err := client(t, agent).StreamSecrets(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	return sotwClient{t, stream}
}

func openDelta(t testing.TB, agent *agenttest.Agent) deltaClient {
	t.Helper()
	stream, err := client(t, agent).DeltaSecrets(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	return deltaClient{t, stream}
}

// send sends req. If the stream has ended, receiving tells why.
func (b bidi[Req, Resp]) send(req *Req) {
	b.t.Helper()
	if err := b.stream.Send(req); err != nil && err != io.EOF {
		b.t.Fatalf("send: %v", err)
	}
}

func (b bidi[Req, Resp]) next() *Resp {
	b.t.Helper()
	resp, err := b.stream.Recv()
	if err != nil {
		b.t.Fatalf("receive: %v", err)
	}
	return resp
}

// wantEnd wants the stream to end with code.
func (b bidi[Req, Resp]) wantEnd(code codes.Code) {
	b.t.Helper()
	resp, err := b.stream.Recv()
	if status.Code(err) != code {
		b.t.Errorf("got %v and %v, want the end with %s", resp, err, code)
	}
}

func secretOf(t testing.TB, body *anypb.Any) *tlsv3.Secret {
	t.Helper()
	var secret tlsv3.Secret
	if err := body.UnmarshalTo(&secret); err != nil {
		t.Fatalf("read a secret: %v", err)
	}
	if err := secret.ValidateAll(); err != nil {
		t.Errorf("Envoy's own rules refuse the secret: %v", err)
	}
	return &secret
}

// only gives the one secret of an answer.
func only(t testing.TB, resp *discoveryv3.DiscoveryResponse) *tlsv3.Secret {
	t.Helper()
	if len(resp.Resources) != 1 {
		t.Fatalf("the answer has %d secrets, want 1", len(resp.Resources))
	}
	return secretOf(t, resp.Resources[0])
}

// identityIn gives the ID of a certificate secret after checking that it is
// whole: leaf and issuing authority, and the leaf's key.
func identityIn(t testing.TB, secret *tlsv3.Secret) string {
	t.Helper()
	certificate := secret.GetTlsCertificate()
	chain := certificates(t, certificate.GetCertificateChain())
	if len(chain) != 2 || chain[0].IsCA || !chain[1].IsCA {
		t.Fatalf("secret %s has a chain of %d certificates, want leaf and issuing authority", secret.Name, len(chain))
	}
	block, rest := pem.Decode(certificate.GetPrivateKey().GetInlineBytes())
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) > 0 {
		t.Fatalf("secret %s has no PKCS #8 key in PEM", secret.Name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !key.(*ecdsa.PrivateKey).PublicKey.Equal(chain[0].PublicKey) {
		t.Errorf("secret %s has another certificate's key", secret.Name)
	}
	return chain[0].URIs[0].String()
}

func certificates(t testing.TB, source *corev3.DataSource) []*x509.Certificate {
	t.Helper()
	var list []*x509.Certificate
	for rest := source.GetInlineBytes(); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			t.Fatalf("not PEM certificates: %q", source.GetInlineBytes())
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, cert)
	}
	return list
}

// domainsIn gives the trust domains of a validator secret, in order.
func domainsIn(t testing.TB, secret *tlsv3.Secret) []string {
	t.Helper()
	custom := secret.GetValidationContext().GetCustomValidatorConfig()
	if custom.GetName() != "envoy.tls.cert_validator.spiffe" {
		t.Fatalf("secret %s has the validator %q", secret.Name, custom.GetName())
	}
	var config tlsv3.SPIFFECertValidatorConfig
	if err := custom.TypedConfig.UnmarshalTo(&config); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, domain := range config.TrustDomains {
		names = append(names, domain.Name)
		if n := len(certificates(t, domain.TrustBundle)); n != 1 {
			t.Errorf("trust domain %s has %d authorities, want 1", domain.Name, n)
		}
	}
	return names
}
