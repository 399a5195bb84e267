package metadata

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// AWSInstance is what the identity document tells of an EC2 instance. Empty
// fields get the values of some instance.
type AWSInstance struct {
	AccountID        string // 12 digits
	Architecture     string
	AvailabilityZone string
	ImageID          string
	InstanceID       string
	InstanceType     string
	PendingTime      time.Time // of its launch; zero is a minute before the service's start
	PrivateIP        string
	Region           string
}

// AWS is EC2's instance metadata service, version 2 alone, as far as it serves
// the instance identity document and its three signatures. OpenSSL signs.
//
// What each signature verifies with is a certificate that AWS publishes for the
// region; the signatures carry none:
//
//	/latest/dynamic/instance-identity/document   JSON
//	/latest/dynamic/instance-identity/signature  base64 of PKCS#1 v1.5, SHA-256, RSA-1024
//	/latest/dynamic/instance-identity/rsa2048    base64 of PKCS#7 (BER) with the document, SHA-256, RSA-2048
//	/latest/dynamic/instance-identity/pkcs7      the same with SHA-1 and DSA
type AWS struct {
	Service
	RSA1024, RSA2048, DSA *x509.Certificate

	openssl           string
	instance          AWSInstance
	started           time.Time
	honest, strangers map[string]awsSigner
	tokens            map[string]time.Time // when they end
}

// awsSigner signs one of the document's signatures.
type awsSigner struct {
	certificate *x509.Certificate
	certFile    string
	keyFile     string
}

// StartAWS starts the service at l, or at a loopback port if l is nil.
func StartAWS(t stage.T, l net.Listener, i AWSInstance) *AWS {
	t.Helper()
	a := &AWS{openssl: stage.Find(t, "ICP_TEST_OPENSSL", "openssl"), started: time.Now(), tokens: map[string]time.Time{}}
	a.honest, a.strangers = a.signers(t), a.signers(t)
	a.RSA1024, a.RSA2048, a.DSA = a.honest["signature"].certificate, a.honest["rsa2048"].certificate, a.honest["pkcs7"].certificate
	a.SetInstance(i)
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /latest/api/token", a.token)
	for name, answer := range map[string]func(*http.Request) ([]byte, error){
		"document": a.document, "signature": a.signature, "rsa2048": a.pkcs7, "pkcs7": a.pkcs7,
	} {
		mux.HandleFunc("GET /latest/dynamic/instance-identity/"+name, a.authorized(answering("text/plain", answer)))
	}
	a.start(t, l, mux)
	return a
}

// SetInstance makes the service that of another instance.
func (a *AWS) SetInstance(i AWSInstance) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.instance = AWSInstance{
		AccountID:        cmp.Or(i.AccountID, "111122223333"),
		Architecture:     cmp.Or(i.Architecture, "x86_64"),
		AvailabilityZone: cmp.Or(i.AvailabilityZone, "eu-north-1a"),
		ImageID:          cmp.Or(i.ImageID, "ami-0123456789abcdef0"),
		InstanceID:       cmp.Or(i.InstanceID, "i-0123456789abcdef0"),
		InstanceType:     cmp.Or(i.InstanceType, "t3.micro"),
		PendingTime:      i.PendingTime,
		PrivateIP:        cmp.Or(i.PrivateIP, "10.0.0.4"),
		Region:           cmp.Or(i.Region, "eu-north-1"),
	}
	if i.PendingTime.IsZero() {
		a.instance.PendingTime = a.started.Add(-time.Minute)
	}
}

// maxTTL is the longest life of a session token, in seconds.
const maxTTL = 21600

// token gives a session token for the life that the request asks for.
func (a *AWS) token(w http.ResponseWriter, r *http.Request) {
	const header = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	if r.Header.Get("X-Forwarded-For") != "" {
		http.Error(w, "403 - Forbidden", http.StatusForbidden)
		return
	}
	ttl, err := strconv.Atoi(r.Header.Get(header))
	if err != nil || ttl < 1 || ttl > maxTTL {
		http.Error(w, "400 - Bad Request", http.StatusBadRequest)
		return
	}
	token := rand.Text()
	a.mu.Lock()
	a.tokens[token] = time.Now().Add(time.Duration(ttl) * time.Second)
	a.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set(header, strconv.Itoa(ttl))
	_, _ = w.Write([]byte(token))
}

// authorized answers requests with a session token alone.
func (a *AWS) authorized(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		end := a.tokens[r.Header.Get("X-Aws-Ec2-Metadata-Token")]
		a.mu.Unlock()
		if time.Now().After(end) {
			http.Error(w, "401 - Unauthorized", http.StatusUnauthorized)
			return
		}
		h(w, r)
	}
}

func (a *AWS) document(*http.Request) ([]byte, error) {
	return a.forging().tamper(a.honestDocument())
}

// honestDocument is what is signed, byte by byte as EC2 writes it.
func (a *AWS) honestDocument() []byte {
	a.mu.Lock()
	i, age := a.instance, a.forgery.Age
	a.mu.Unlock()
	var lines []string
	for _, field := range []struct {
		name  string
		value any
	}{
		{"accountId", i.AccountID}, {"architecture", i.Architecture}, {"availabilityZone", i.AvailabilityZone},
		{"billingProducts", nil}, {"devpayProductCodes", nil}, {"marketplaceProductCodes", nil},
		{"imageId", i.ImageID}, {"instanceId", i.InstanceID}, {"instanceType", i.InstanceType}, {"kernelId", nil},
		{"pendingTime", i.PendingTime.Add(-age).UTC().Format(time.RFC3339)}, {"privateIp", i.PrivateIP},
		{"ramdiskId", nil}, {"region", i.Region}, {"version", "2017-09-30"},
	} {
		value, _ := json.Marshal(field.value) // strings always can be
		lines = append(lines, fmt.Sprintf("  %q : %s", field.name, value))
	}
	return []byte("{\n" + strings.Join(lines, ",\n") + "\n}")
}

func (a *AWS) signature(*http.Request) ([]byte, error) {
	raw, err := a.run(a.honestDocument(), "dgst", "-sha256", "-sign", a.signer("signature").keyFile)
	return lines(raw), err
}

// pkcs7 answers for both signatures of that form. OpenSSL, as EC2 does, writes
// indefinite lengths, and leaves the certificate out.
func (a *AWS) pkcs7(r *http.Request) ([]byte, error) {
	name := filepath.Base(r.URL.Path)
	signer, digest := a.signer(name), map[string]string{"rsa2048": "sha256", "pkcs7": "sha1"}[name]
	raw, err := a.run(a.honestDocument(), "cms", "-sign", "-binary", "-nodetach", "-stream", "-nosmimecap", "-nocerts",
		"-md", digest, "-signer", signer.certFile, "-inkey", signer.keyFile, "-outform", "DER")
	if err != nil {
		return nil, err
	}
	raw, err = a.forging().tamper(raw)
	return lines(raw), err
}

func (a *AWS) signer(name string) awsSigner {
	if a.forging().Stranger {
		return a.strangers[name]
	}
	return a.honest[name]
}

// lines gives base64 in lines of 76 characters.
func lines(raw []byte) []byte {
	encoded := []byte(base64.StdEncoding.EncodeToString(raw))
	return bytes.Join(slices.Collect(slices.Chunk(encoded, 76)), []byte("\n"))
}

// run gives what OpenSSL prints.
func (a *AWS) run(input []byte, args ...string) ([]byte, error) {
	var complaint bytes.Buffer
	cmd := exec.Command(a.openssl, args...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("openssl %s: %w: %s", args[0], err, complaint.String())
	}
	return out, nil
}

// signers makes the keys and certificates of a region.
func (a *AWS) signers(t stage.T) map[string]awsSigner {
	t.Helper()
	dir := stage.Folder(t)
	parameters := filepath.Join(dir, "dsa.pem")
	stage.Output(t, exec.Command(a.openssl, "dsaparam", "-out", parameters, "1024"))
	signers := map[string]awsSigner{}
	for name, key := range map[string]string{"signature": "rsa:1024", "rsa2048": "rsa:2048", "pkcs7": "dsa:" + parameters} {
		s := awsSigner{certFile: filepath.Join(dir, name+".crt"), keyFile: filepath.Join(dir, name+".key")}
		stage.Output(t, exec.Command(a.openssl, "req", "-x509", "-newkey", key, "-nodes", "-keyout", s.keyFile, "-out", s.certFile,
			"-subj", "/C=US/ST=Washington State/L=Seattle/O=Stage Web Services LLC", "-set_serial", "4711", "-days", "3650"))
		s.certificate = readCertificate(t, s.certFile)
		signers[name] = s
	}
	return signers
}

func readCertificate(t stage.T, file string) *x509.Certificate {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("read a certificate: %v", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		t.Fatalf("read a certificate: %s has no PEM", file)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatalf("read a certificate: %v", err)
	}
	return certificate
}
