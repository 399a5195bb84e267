package ca

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/url"
	"syscall"
	"testing"
	"time"

	"github.com/authsec-ai/icp/internal/wire"
)

// reportCPU adds the processor time of the whole process, all threads, system
// calls included, per credential: what a server pays, waits for the disk aside.
func reportCPU(b *testing.B, per int) func() {
	start := cpuTime(b)
	return func() {
		b.ReportMetric(float64((cpuTime(b)-start).Microseconds())/float64(b.N*per), "cpu-µs/credential")
	}
}

func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkFloorX509 is what an X.509-SVID costs with the standard library and
// nothing around it: read the request, check its proof, make the certificate.
func BenchmarkFloorX509(b *testing.B) {
	caKey, key := newKey(b), newKey(b)
	id := &url.URL{Scheme: "spiffe", Host: "dev.icp.internal", Path: "/ai-agents/sales-bot"}
	parent := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, parent, parent, caKey.Public(), caKey)
	if err != nil {
		b.Fatal(err)
	}
	parent = parseCert(b, der)
	tmpl := referenceTemplate(b, leaf{id: workloadID(b, id.Host, id.Path), serial: []byte{1}, key: key.Public(),
		notBefore: time.Now(), notAfter: time.Now().Add(time.Hour)})
	request := requestFor(b, key)
	defer reportCPU(b, 1)()
	b.ReportAllocs()
	for b.Loop() {
		req, err := x509.ParseCertificateRequest(request)
		if err != nil || req.CheckSignature() != nil {
			b.Fatal("bad request")
		}
		if _, err := x509.CreateCertificate(rand.Reader, tmpl, parent, req.PublicKey, caKey); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFloorES256 is one raw signature and its verification.
func BenchmarkFloorES256(b *testing.B) {
	key := newKey(b)
	defer reportCPU(b, 1)()
	digest := sha256.Sum256([]byte("x"))
	for b.Loop() {
		if _, err := signVerified(key, digest); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssueX509(b *testing.B) {
	s := newStage(b)
	node := s.tenant("dev.icp.internal")
	item := itemFor(b, s.entry("dev.icp.internal", node, "/ai-agents/sales-bot"))
	defer reportCPU(b, 1)()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		item.RequestID = fmt.Sprint(n)
		if r := s.sign("dev.icp.internal", node, item)[0]; r.Error != nil {
			b.Fatal(r.Error.Message)
		}
	}
}

func BenchmarkIssueX509Batch100(b *testing.B) {
	const size = 100
	s := newStage(b)
	node := s.tenant("dev.icp.internal")
	items := make([]wire.SignItem, size)
	for i := range items {
		items[i] = itemFor(b, s.entry("dev.icp.internal", node, fmt.Sprintf("/ai-agents/bot-%d", i)))
	}
	defer reportCPU(b, size)()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		for i := range items {
			items[i].RequestID = fmt.Sprint(n, "-", i)
		}
		for _, r := range s.sign("dev.icp.internal", node, items...) {
			if r.Error != nil {
				b.Fatal(r.Error.Message)
			}
		}
	}
}

func BenchmarkIssueJWT(b *testing.B) {
	s := newStage(b)
	node := s.tenant("dev.icp.internal")
	e := s.entry("dev.icp.internal", node, "/ai-agents/sales-bot")
	defer reportCPU(b, 1)()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		item := jwtItemFor(e, "llm")
		item.RequestID = fmt.Sprint(n)
		if r := s.signJWT("dev.icp.internal", node, item); r.Error != nil {
			b.Fatal(r.Error.Message)
		}
	}
}
