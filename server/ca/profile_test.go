package ca

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/server/store"
)

// signingPurposes are the authorities that have a certificate.
var signingPurposes = []store.Purpose{store.WorkloadAnchor, store.WorkloadIssuer, store.NodeAnchor, store.NodeIssuer}

func extension(cert *x509.Certificate, oid ...int) *pkix.Extension {
	for i := range cert.Extensions {
		if cert.Extensions[i].Id.Equal(asn1.ObjectIdentifier(oid)) {
			return &cert.Extensions[i]
		}
	}
	return nil
}

func TestLeafProfile(t *testing.T) {
	s := newStage(t)
	node := s.tenant("a.example")
	e := s.entry("a.example", node, "/ai-agents/sales-bot", func(spec *identity.Spec) { spec.DNSNames = []string{"sales.a.example"} })
	leaf := s.issued("a.example", node, itemFor(t, e))
	issued := s.clock.Now().Truncate(time.Second)

	check := func(name string, ok bool) {
		t.Run(name, func(t *testing.T) {
			if !ok {
				t.Errorf("not so in %+v", leaf)
			}
		})
	}
	check("X509-01/twin", len(leaf.URIs) == 1 && leaf.URIs[0].String() == "spiffe://a.example/ai-agents/sales-bot")
	check("X509-04/twin", slices.Equal(leaf.DNSNames, []string{"sales.a.example"}) && len(leaf.IPAddresses)+len(leaf.EmailAddresses) == 0)
	check("X509-05/twin", leaf.URIs[0].Path != "")
	check("X509-06/twin", !extension(leaf, 2, 5, 29, 17).Critical && leaf.Subject.CommonName != "")
	check("X509-12/twin", leaf.BasicConstraintsValid && !leaf.IsCA && extension(leaf, 2, 5, 29, 19).Critical)
	check("X509-15/twin", extension(leaf, 2, 5, 29, 15).Critical)
	check("X509-17/twin", leaf.KeyUsage == x509.KeyUsageDigitalSignature)
	check("X509-18/twin", leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) == 0)
	check("X509-19/twin", slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}))
	check("CA-4/one hour from the time of issue", leaf.NotAfter.Sub(issued) == 3600*time.Second && issued.Sub(leaf.NotBefore) == 10*time.Second)
	check("CA-6/subject", leaf.Subject.String() == "CN=spiffe://a.example/ai-agents/sales-bot")
	check("CA-6/issuer", leaf.Issuer.CommonName == "spiffe://a.example/spire/server" && slices.Equal(leaf.Issuer.Organization, []string{"a.example"}))
	check("key identifiers", len(leaf.SubjectKeyId) == 20 && bytes.Equal(leaf.AuthorityKeyId, parseCert(t, s.authority("a.example", store.WorkloadIssuer).Certificate).SubjectKeyId))
	check("six extensions", len(leaf.Extensions) == 6)
}

func TestLongSPIFFEID(t *testing.T) {
	s := newStage(t)
	node := s.tenant("a.example")
	for _, length := range []int{64, 65} {
		path := "/" + strings.Repeat("w", length-len("spiffe://a.example/"))
		leaf := s.issued("a.example", node, itemFor(t, s.entry("a.example", node, path)))
		id := "spiffe://a.example" + path
		if leaf.URIs[0].String() != id {
			t.Errorf("URI is %s", leaf.URIs[0])
		}
		cn, serial := leaf.Subject.CommonName, leaf.Subject.SerialNumber
		if length == 64 && (cn != id || serial != "") || length == 65 && (cn != "" || len(serial) != 64) {
			t.Errorf("an ID of %d bytes has CN %q and serialNumber %q", length, cn, serial)
		}
	}
}

func TestAuthorityProfile(t *testing.T) {
	s := newStage(t)
	s.tenant("a.example")
	for _, p := range signingPurposes {
		t.Run(string(p), func(t *testing.T) {
			row := s.authority("a.example", p)
			cert := parseCert(t, row.Certificate)
			check := func(name string, ok bool) {
				t.Run(name, func(t *testing.T) {
					if !ok {
						t.Errorf("not so in %+v", cert)
					}
				})
			}
			anchor := parentOf(p) == ""
			check("ID-22/twin", len(cert.URIs) == 1 && cert.URIs[0].String() == "spiffe://a.example")
			check("X509-07/twin", cert.IsCA && cert.BasicConstraintsValid && cert.KeyUsage&x509.KeyUsageCertSign != 0)
			check("X509-13/twin", anchor && cert.MaxPathLen == 1 || !anchor && cert.MaxPathLen == 0 && cert.MaxPathLenZero)
			check("X509-14/twin", extension(cert, 2, 5, 29, 30) == nil)
			check("X509-15/twin", extension(cert, 2, 5, 29, 15).Critical)
			check("X509-16/twin", cert.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign)
			check("X509-20/twin", len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) == 0)
			check("self-signed if an anchor", anchor == bytes.Equal(cert.RawSubject, cert.RawIssuer))
			check("organization is the tenant", slices.Equal(cert.Subject.Organization, []string{"a.example"}))
			check("id is the key identifier", row.ID == hex.EncodeToString(cert.SubjectKeyId))
			check("a week for issuers", anchor || cert.NotAfter.Sub(row.CreatedAt) == 7*24*time.Hour)
		})
	}
}

// TestLintRefuses shows that the lint before release is not a formality: each
// defect alone stops a certificate that is fine without it.
func TestLintRefuses(t *testing.T) {
	caKey := newKey(t)
	parent := &x509.Certificate{SubjectKeyId: []byte{1, 2, 3}}
	good := leaf{id: workloadID(t, "a.example", "/w"), serial: bytes.Repeat([]byte{0x7f}, 16), key: newKey(t).Public(),
		notBefore: time.Now(), notAfter: time.Now().Add(time.Hour)}
	for row, change := range map[string]func(*x509.Certificate){
		"X509-01/refused": func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) },
		"X509-03/refused": func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"a.example"} },
		"X509-05/refused": func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "a.example"}} },
		"X509-12/refused": func(c *x509.Certificate) { c.IsCA = true },
		"X509-15/refused": func(c *x509.Certificate) { c.KeyUsage = 0 },
		"X509-17/refused": func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement },
		"X509-18/refused": func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"X509-19/refused": func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] },
	} {
		t.Run(row, func(t *testing.T) {
			tmpl := referenceTemplate(t, good)
			der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, good.key, caKey)
			if err != nil {
				t.Fatal(err)
			}
			if err := svid.LintLeaf(der); err != nil {
				t.Fatalf("the twin is refused: %v", err)
			}
			change(tmpl)
			if der, err = x509.CreateCertificate(rand.Reader, tmpl, parent, good.key, caKey); err != nil {
				t.Fatal(err)
			}
			if err := svid.LintLeaf(der); err == nil {
				t.Fatal("the lint lets it pass")
			}
		})
	}
}

func TestLifetimes(t *testing.T) {
	s := newStage(t)
	cases := []struct {
		name     string
		settings store.Settings
		spec     func(*identity.Spec)
		want     time.Duration
	}{
		{"CA-4/default", store.Settings{}, func(*identity.Spec) {}, time.Hour},
		{"CA-5/ai-agent", store.Settings{}, func(s *identity.Spec) { s.Profile = "ai-agent" }, 10 * time.Minute},
		{"CA-5/twin/the entry's own comes first", store.Settings{}, func(s *identity.Spec) { s.Profile, s.TTL = "ai-agent", duration(20*time.Minute) }, 20 * time.Minute},
		{"tenant's default", store.Settings{TTL: duration(30 * time.Minute)}, func(*identity.Spec) {}, 30 * time.Minute},
		{"profile before tenant's default", store.Settings{TTL: duration(30 * time.Minute)}, func(s *identity.Spec) { s.Profile = "ai-agent" }, 10 * time.Minute},
		{"T-09/one second below the maximum", store.Settings{}, func(s *identity.Spec) { s.TTL = duration(time.Hour - time.Second) }, time.Hour - time.Second},
		{"T-09/one second above the maximum", store.Settings{}, func(s *identity.Spec) { s.TTL = duration(time.Hour + time.Second) }, time.Hour},
		{"CA-7/raised maximum", store.Settings{MaxTTL: duration(2 * time.Hour)}, func(s *identity.Spec) { s.TTL = duration(2 * time.Hour) }, 2 * time.Hour},
		{"T-09/negative", store.Settings{}, func(s *identity.Spec) { s.TTL = -1 }, 5 * time.Second},
		{"T-09/too short", store.Settings{}, func(s *identity.Spec) { s.TTL = duration(time.Second) }, 5 * time.Second},
		{"T-09/over all bounds", store.Settings{MaxTTL: duration(1 << 62)}, func(s *identity.Spec) { s.TTL = duration(1 << 62) }, longestTTL},
		{"part of a second", store.Settings{}, func(s *identity.Spec) { s.TTL = duration(7900 * time.Millisecond) }, 7 * time.Second},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tenant := "t" + strconv.Itoa(i) + ".example"
			node := s.tenant(tenant, c.settings)
			e := s.entry(tenant, node, "/w", c.spec)
			result := s.sign(tenant, node, itemFor(t, e))[0]
			if result.Error != nil {
				t.Fatal(result.Error)
			}
			cert, issuer := parseCert(t, result.Chain[0]), parseCert(t, result.Chain[1])
			if got := cert.NotAfter.Sub(s.clock.Now().Truncate(time.Second)); got != c.want {
				t.Errorf("lives for %v; want %v", got, c.want)
			}
			if cert.NotAfter.After(issuer.NotAfter) {
				t.Error("T-09: it outlives its issuer")
			}
			if !result.ExpiresAt.Equal(cert.NotAfter) {
				t.Errorf("answer says %v, certificate %v", result.ExpiresAt, cert.NotAfter)
			}
		})
	}
	t.Run("T-19/refused/unknown profile", func(t *testing.T) {
		node := s.tenant("u.example")
		e := s.entry("u.example", node, "/w", func(s *identity.Spec) { s.Profile = "immortal" })
		wantProblem(t, s.sign("u.example", node, itemFor(t, e))[0].Error, identity.Denied, "unknown profile")
	})
}

func duration(d time.Duration) identity.Duration { return identity.Duration(d) }

func TestZlint(t *testing.T) {
	s := newStage(t)
	node := s.tenant("a.example")
	longDomain := strings.Repeat("a", 60) + ".example"
	longNode := s.tenant(longDomain)
	certs := map[string][]byte{}
	for tenant, n := range map[string]string{"a.example": node, longDomain: longNode} {
		for _, p := range signingPurposes {
			certs[tenant+" "+string(p)] = s.authority(tenant, p).Certificate
		}
		for name, path := range map[string]string{"leaf": "/w", "leaf with a long ID": "/" + strings.Repeat("w", 900), "leaf with an underscore": "/w_1"} {
			e := s.entry(tenant, n, path, func(spec *identity.Spec) { spec.DNSNames = []string{"db.a.example"} })
			certs[tenant+" "+name] = s.issued(tenant, n, itemFor(t, e)).Raw
		}
	}
	agent, err := s.ca.SignAgent(t.Context(), "a.example", workloadID(t, "a.example", "/agent/n2"), requestFor(t, newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	certs["agent"] = agent.Chain[0]
	registry, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280, lint.RFC5480, lint.Community}})
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range certs {
		t.Run(name, func(t *testing.T) {
			cert, err := zx509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			run := 0
			for id, result := range zlint.LintCertificateEx(cert, registry).Results {
				if result.Status > lint.NE {
					run++
				}
				if result.Status >= lint.Warn {
					t.Errorf("%s: %s %s", id, result.Status, result.Details)
				}
			}
			if run < 50 {
				t.Errorf("only %d lints ran", run)
			}
		})
	}
}

// TestOpenSSL lets another implementation judge the chain with the anchor alone.
func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal("openssl is missing: install the package openssl")
	}
	s := newStage(t)
	nodes := map[string]string{"a.example": s.tenant("a.example"), "b.example": s.tenant("b.example")}
	dir := t.TempDir()
	write := func(name string, der []byte) string {
		file := filepath.Join(dir, name+".pem")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for name, node := range nodes {
		result := s.sign(name, node, itemFor(t, s.entry(name, node, "/w")))[0]
		if result.Error != nil {
			t.Fatal(result.Error)
		}
		write(name+"-leaf", result.Chain[0])
		write(name+"-issuer", result.Chain[1])
		write(name+"-anchor", s.authority(name, store.WorkloadAnchor).Certificate)
		write(name+"-node-anchor", s.authority(name, store.NodeAnchor).Certificate)
	}
	verify := func(anchor string) (string, error) {
		file := func(name string) string { return filepath.Join(dir, name+".pem") }
		out, err := exec.Command(openssl, "verify", "-x509_strict", "-attime", strconv.FormatInt(s.clock.Now().Unix(), 10),
			"-CAfile", file(anchor), "-untrusted", file("a.example-issuer"), file("a.example-leaf")).CombinedOutput()
		return string(out), err
	}
	t.Run("CA-3/twin", func(t *testing.T) {
		if out, err := verify("a.example-anchor"); err != nil {
			t.Fatal(out)
		}
	})
	for _, anchor := range []string{"b.example-anchor", "a.example-node-anchor"} {
		t.Run("CA-2/refused/under "+anchor, func(t *testing.T) {
			if out, err := verify(anchor); err == nil || !strings.Contains(out, "unable to get") {
				t.Fatalf("openssl says %s", out)
			}
		})
	}
}

func TestChainVerifies(t *testing.T) {
	s := newStage(t)
	nodes := map[string]string{"a.example": s.tenant("a.example"), "b.example": s.tenant("b.example")}
	result := s.sign("a.example", nodes["a.example"], itemFor(t, s.entry("a.example", nodes["a.example"], "/w")))[0]
	if result.Error != nil {
		t.Fatal(result.Error)
	}
	anchors := func(tenant string) *x509bundle.Bundle {
		b, err := s.ca.Bundle(t.Context(), tenant)
		if err != nil {
			t.Fatal(err)
		}
		return b.X509Bundle()
	}
	// disguised gives another tenant's anchors under a.example's name, for a
	// verifier that has them mixed up.
	disguised := func(b *x509bundle.Bundle) *x509bundle.Bundle {
		return x509bundle.FromX509Authorities(workloadID(t, "a.example", "/x").TrustDomain(), b.X509Authorities())
	}
	nodeAnchors, err := s.ca.NodeAnchors(t.Context(), "a.example")
	if err != nil {
		t.Fatal(err)
	}
	opts := svid.X509Options{Now: s.clock.Now()}
	t.Run("CA-2/twin", func(t *testing.T) {
		got, err := svid.VerifyX509(result.Chain, anchors("a.example"), opts)
		if err != nil {
			t.Fatal(err)
		}
		if got.ID.String() != "spiffe://a.example/w" || got.Serial != parseCert(t, result.Chain[0]).SerialNumber.Text(16) {
			t.Errorf("verified as %+v", got)
		}
		if _, _, err := x509svid.ParseAndVerify(result.Chain, anchors("a.example"), x509svid.WithTime(s.clock.Now())); err != nil {
			t.Errorf("go-spiffe: %v", err)
		}
	})
	for name, bundle := range map[string]*x509bundle.Bundle{
		"the other tenant's bundle":             anchors("b.example"),
		"the other tenant's bundle in disguise": disguised(anchors("b.example")),
		"the anchors for agents of its own":     nodeAnchors,
	} {
		t.Run("CA-2/refused/under "+name, func(t *testing.T) {
			if got, err := svid.VerifyX509(result.Chain, bundle, opts); err == nil {
				t.Errorf("ours accepts it as %s", got.ID)
			}
			if _, _, err := x509svid.ParseAndVerify(result.Chain, bundle, x509svid.WithTime(s.clock.Now())); err == nil {
				t.Error("go-spiffe accepts it")
			}
		})
	}
	t.Run("agents are not workloads", func(t *testing.T) {
		agent, err := s.ca.SignAgent(t.Context(), "a.example", workloadID(t, "a.example", "/agent/x"), requestFor(t, newKey(t)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := svid.VerifyX509(agent.Chain, anchors("a.example"), opts); err == nil {
			t.Error("an agent passes for a workload")
		}
		if _, err := svid.VerifyX509(agent.Chain, nodeAnchors, opts); err != nil {
			t.Errorf("the server does not know its agent: %v", err)
		}
	})
}

func TestTenantKeysAreUnique(t *testing.T) {
	s := newStage(t)
	seen := map[string]string{}
	for _, tenant := range []string{"a.example", "b.example", "c.example"} {
		s.tenant(tenant)
		rows, err := s.db.Authorities(t.Context(), tenant)
		if err != nil || len(rows) != 5 {
			t.Fatalf("ID-21: tenant has %d authorities, %v", len(rows), err)
		}
		for _, row := range rows {
			if other, dup := seen[string(row.SPKI)]; dup {
				t.Errorf("TDB-01: %s and %s share a key", other, row.ID)
			}
			seen[string(row.SPKI)] = row.ID
			if bytes.Contains(row.WrappedKey, row.SPKI[len(row.SPKI)-64:]) {
				t.Errorf("the key of %s is not wrapped", row.ID)
			}
		}
	}
	t.Run("TDB-01/refused/the key of another tenant", func(t *testing.T) {
		row := s.authority("a.example", store.WorkloadIssuer)
		row.Tenant, row.TrustDomain, row.ID = "b.example", "b.example", "00"
		err := s.db.PutAuthority(t.Context(), row, s.event("b.example"))
		if identity.CodeOf(err) != identity.Conflict {
			t.Fatalf("error is %v", err)
		}
	})
	t.Run("ID-21/refused/a tenant without authorities", func(t *testing.T) {
		bare := store.Tenant{ID: "bare.example", TrustDomain: "bare.example", CreatedAt: s.clock.Now()}
		if err := s.db.CreateTenant(t.Context(), bare, nil, s.event("bare.example")); err != nil {
			t.Fatal(err)
		}
		_, err := s.ca.SignAgent(t.Context(), "bare.example", workloadID(t, "bare.example", "/agent/n"), requestFor(t, newKey(t)))
		if identity.CodeOf(err) != identity.Unavailable {
			t.Fatalf("error is %v", err)
		}
	})
}

func TestSignAgent(t *testing.T) {
	s := newStage(t)
	s.tenant("a.example")
	s.tenant("b.example")
	key := newKey(t)
	t.Run("twin", func(t *testing.T) {
		id := workloadID(t, "a.example", "/agent/n9")
		got, err := s.ca.SignAgent(t.Context(), "a.example", id, requestFor(t, key))
		if err != nil {
			t.Fatal(err)
		}
		cert := parseCert(t, got.Chain[0])
		now := s.clock.Now().Truncate(time.Second)
		if cert.URIs[0].String() != id.String() || cert.SerialNumber.Text(16) != got.Serial || len(got.SPKI) != 32 ||
			!cert.NotAfter.Equal(now.Add(time.Hour)) || !got.ExpiresAt.Equal(cert.NotAfter) || !got.NotBefore.Equal(cert.NotBefore) {
			t.Errorf("got %+v for %+v", got, cert)
		}
	})
	for name, c := range map[string]struct {
		id   string
		code identity.Code
		csr  []byte
	}{
		"T-10/refused/other tenant's domain": {"spiffe://b.example/agent/n1", identity.Denied, requestFor(t, key)},
		"T-11/refused/a workload's path":     {"spiffe://a.example/w", identity.Denied, requestFor(t, key)},
		"T-11/refused/two segments":          {"spiffe://a.example/agent/x/y", identity.Denied, requestFor(t, key)},
		"T-08/refused/no proof of the key":   {"spiffe://a.example/agent/n1", identity.Invalid, []byte("x")},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := identity.ParseID(c.id)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.ca.SignAgent(t.Context(), "a.example", id, c.csr); identity.CodeOf(err) != c.code || got.Chain != nil {
				t.Fatalf("got %v, %v", got, err)
			}
		})
	}
	t.Run("T-11/refused/an entry for an agent's path", func(t *testing.T) {
		node := workloadID(t, "a.example", "/agent/n1").String()
		e := s.entry("a.example", node, "/agent/n1")
		wantProblem(t, s.sign("a.example", node, itemFor(t, e))[0].Error, identity.Denied, "not a workload")
	})
}
