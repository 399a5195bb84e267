package metadata

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/smallstep/pkcs7"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/pki"
)

// ProveAWS shows that OpenSSL verifies the three signatures of the identity
// document, and that it refuses those of a changed document and of a stranger.
func ProveAWS(t stage.T) stage.Proof {
	t.Helper()
	from := time.Now()
	a := StartAWS(t, nil, AWSInstance{})
	document := a.Fetch(t, "document")
	ready := time.Since(from)
	const good, bad = "", "Verification failure"
	for _, c := range []struct {
		forgery             Forgery
		signature, p7, inGo string // why it is refused
	}{
		{Forgery{}, good, good, good},
		{Forgery{Replace: a.instance.AccountID, With: "999988887777"}, bad, "digest failure", "Message digest mismatch"},
		{Forgery{Stranger: true}, bad, "signatureVerify:signature failure", "crypto/rsa: verification error"},
	} {
		a.Forge(c.forgery)
		document := a.Fetch(t, "document")
		judged(t, "signature", c.forgery, checkSignature(t, a, document), c.signature)
		judged(t, "rsa2048", c.forgery, checkPKCS7(t, a, "rsa2048", a.RSA2048, document), c.p7)
		judged(t, "pkcs7", c.forgery, checkPKCS7(t, a, "pkcs7", a.DSA, document), c.p7)
		judged(t, "rsa2048 in Go", c.forgery, checkInGo(t, a, document), c.inGo)
	}
	address := a.URL + "/latest/dynamic/instance-identity/document"
	without, _ := ask(t, http.DefaultClient, http.MethodGet, address)
	noTTL, _ := ask(t, http.DefaultClient, http.MethodPut, a.URL+"/latest/api/token")
	if without != http.StatusUnauthorized || noTTL != http.StatusBadRequest {
		t.Fatalf("without a token: %d, a token without TTL: %d; want 401 and 400", without, noTTL)
	}
	return stage.Proof{Version: openSSL(t), Ready: ready, Fact: fmt.Sprintf(
		"OpenSSL verifies signature, rsa2048 and pkcs7 of %d bytes, none of them with another account or by a stranger; no token: %d, no TTL: %d",
		len(document), without, noTTL)}
}

// judged holds a verdict against why something is to be refused; nothing if it
// is to be accepted.
func judged(t stage.T, what string, forgery any, verdict error, why string) {
	t.Helper()
	if why == "" && verdict == nil {
		return
	}
	if why == "" || verdict == nil || !strings.Contains(verdict.Error(), why) {
		t.Fatalf("the verdict on %s of %+v is %v; want %q", what, forgery, verdict, why)
	}
}

// checkSignature has OpenSSL check the plain signature.
func checkSignature(t stage.T, a *AWS, document string) error {
	t.Helper()
	raw := decoded(t, a.Fetch(t, "signature"))
	key, err := x509.MarshalPKIXPublicKey(a.RSA1024.PublicKey)
	if err != nil {
		t.Fatalf("write a public key: %v", err)
	}
	dir := written(t, map[string][]byte{"document": []byte(document), "signature": raw,
		"key": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: key})})
	_, err = runOpenSSL(t, dir, "dgst", "-sha256", "-verify", "key", "-signature", "signature", "document")
	return err
}

// checkPKCS7 has OpenSSL check a signature as AWS's manual says.
func checkPKCS7(t stage.T, a *AWS, name string, certificate *x509.Certificate, document string) error {
	t.Helper()
	p7 := "-----BEGIN PKCS7-----\n" + a.Fetch(t, name) + "\n-----END PKCS7-----\n"
	dir := written(t, map[string][]byte{"p7": []byte(p7), "certificate": pki.CertificatePEM(certificate)})
	content, err := runOpenSSL(t, dir, "smime", "-verify", "-in", "p7", "-inform", "PEM", "-certfile", "certificate", "-noverify")
	if err == nil && content != document {
		return fmt.Errorf("the signature is of another document: %s", content)
	}
	return err
}

func checkInGo(t stage.T, a *AWS, document string) error {
	t.Helper()
	p7, err := pkcs7.Parse(decoded(t, a.Fetch(t, "rsa2048")))
	if err != nil {
		t.Fatalf("read rsa2048: %v", err)
	}
	if len(p7.Certificates) > 0 || string(p7.Content) != document {
		t.Fatalf("rsa2048 has %d certificates and is of %s; want none, and the document", len(p7.Certificates), p7.Content)
	}
	p7.Certificates = []*x509.Certificate{a.RSA2048}
	return p7.Verify()
}

// ProveGCP shows that the identity token verifies with the published key, and
// that changed ones and a stranger's don't.
func ProveGCP(t stage.T) stage.Proof {
	t.Helper()
	const audience = "https://icp.example"
	from := time.Now()
	g := StartGCP(t, nil, GCPInstance{})
	token := g.Fetch(t, audience)
	ready := time.Since(from)
	claims, err := checkToken(t, g.Issuer, token)
	if err != nil || claims["aud"] != audience || claims["iss"] != g.Issuer.URL {
		t.Fatalf("the token has claims %v, error %v", claims, err)
	}
	for _, f := range []Forgery{{Replace: g.instance.ProjectID, With: "other-project"}, {Stranger: true}} {
		g.Forge(f)
		_, err := checkToken(t, g.Issuer, g.Fetch(t, audience))
		judged(t, "a token", f, err, rsa.ErrVerification.Error())
	}
	g.Forge(Forgery{})
	without, said := ask(t, http.DefaultClient, http.MethodGet, g.address(audience))
	with, _ := ask(t, http.DefaultClient, http.MethodGet, g.address(audience), "Metadata-Flavor", "Google")
	if without != http.StatusForbidden || with != http.StatusOK {
		t.Fatalf("without Metadata-Flavor: %d %s, with it: %d; want 403 and 200", without, said, with)
	}
	engine := claims["google"].(map[string]any)["compute_engine"].(map[string]any)
	return stage.Proof{Version: "v1", Ready: ready, Fact: fmt.Sprintf(
		"RS256 token of %v/%v verifies, none with another project or by a stranger; no Metadata-Flavor: %d, with it: %d",
		engine["project_id"], engine["instance_name"], without, with)}
}

// ProveAzure shows that OpenSSL verifies the attested document up to the root,
// and refuses a changed one, a stranger's, and that of a stranger who shows the
// honest certificate first; and that the managed identity's token verifies.
func ProveAzure(t stage.T) stage.Proof {
	t.Helper()
	const nonce = "1234567890"
	from := time.Now()
	a := StartAzure(t, nil, AzureInstance{})
	raw := decoded(t, a.Fetch(t, nonce))
	ready := time.Since(from)
	content, err := checkAttested(t, a, raw)
	if err != nil || !strings.Contains(content, `"nonce":"`+nonce+`"`) {
		t.Fatalf("the attested document %s: %v", content, err)
	}
	if _, err := checkToken(t, a.Issuer, a.FetchToken(t, "https://icp.example")); err != nil {
		t.Fatalf("the managed identity's token: %v", err)
	}
	const unknown = "unable to get local issuer certificate"
	for _, c := range []struct {
		forgery AzureForgery
		why     string
	}{
		{AzureForgery{Forgery: Forgery{Replace: a.instance.SubscriptionID, With: strings.Repeat("9", 36)}}, "bad signature"},
		{AzureForgery{Forgery: Forgery{Stranger: true}}, unknown}, {AzureForgery{Decoy: true}, unknown},
	} {
		a.Forge(t, c.forgery)
		_, err := checkAttested(t, a, decoded(t, a.Fetch(t, nonce)))
		judged(t, "an attested document", c.forgery, err, c.why)
	}
	a.Forge(t, AzureForgery{})
	address := a.URL + "/metadata/attested/document?api-version=2021-02-01"
	without, said := ask(t, http.DefaultClient, http.MethodGet, address)
	with, _ := ask(t, http.DefaultClient, http.MethodGet, address, "Metadata", "true")
	if without != http.StatusBadRequest || with != http.StatusOK {
		t.Fatalf("without Metadata: %d %s, with it: %d; want 400 and 200", without, said, with)
	}
	return stage.Proof{Version: openSSL(t), Ready: ready, Fact: fmt.Sprintf(
		"OpenSSL verifies the attested document of %d bytes up to %s, none with another subscription, by a stranger or behind a decoy; no Metadata: %d, with it: %d",
		len(raw), a.Root.Subject.CommonName, without, with)}
}

// checkAttested gives what was signed, if OpenSSL trusts the signer.
func checkAttested(t stage.T, a *Azure, raw []byte) (string, error) {
	t.Helper()
	dir := written(t, map[string][]byte{"p7": raw, "ca": pki.CertificatePEM(a.Root, a.Intermediate)})
	return runOpenSSL(t, dir, "cms", "-verify", "-in", "p7", "-inform", "DER", "-CAfile", "ca", "-purpose", "any")
}

// checkToken checks an RS256 token with the key that the issuer publishes, with
// nothing but the standard library, and gives its claims.
func checkToken(t stage.T, i *Issuer, token string) (claims map[string]any, err error) {
	t.Helper()
	status, body := ask(t, i.HTTP(), http.MethodGet, i.JWKSURI)
	var published struct{ Keys []struct{ N, E string } }
	if err := json.Unmarshal([]byte(body), &published); err != nil || status != http.StatusOK || len(published.Keys) != 1 {
		t.Fatalf("the issuer's keys: %d %s (%v); want one", status, body, err)
	}
	number := func(text string) *big.Int {
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			t.Fatalf("read the issuer's key: %v", err)
		}
		return new(big.Int).SetBytes(raw)
	}
	key := &rsa.PublicKey{N: number(published.Keys[0].N), E: int(number(published.Keys[0].E).Int64())}
	parts := strings.Split(token, ".")
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], number(parts[2]).FillBytes(make([]byte, key.Size()))); err != nil {
		return nil, err
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	return claims, json.Unmarshal(payload, &claims)
}

func decoded(t stage.T, text string) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(text) // which skips the ends of lines
	if err != nil {
		t.Fatalf("read base64: %v: %s", err, text)
	}
	return raw
}

// written gives a folder with files.
func written(t stage.T, files map[string][]byte) string {
	t.Helper()
	dir := stage.Folder(t)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatalf("write a file for OpenSSL: %v", err)
		}
	}
	return dir
}

// runOpenSSL gives what OpenSSL prints; the error has what it complains of.
func runOpenSSL(t stage.T, dir string, args ...string) (string, error) {
	t.Helper()
	var out, complaint bytes.Buffer
	cmd := exec.Command(stage.Find(t, "ICP_TEST_OPENSSL", "openssl"), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w: %s%s", err, out.String(), complaint.String())
	}
	return out.String(), nil
}

// openSSL gives its version.
func openSSL(t stage.T) string {
	t.Helper()
	out, err := runOpenSSL(t, "", "version")
	fields := strings.Fields(out)
	if err != nil || len(fields) < 2 {
		t.Fatalf("openssl version: %q, %v", out, err)
	}
	return fields[1]
}
