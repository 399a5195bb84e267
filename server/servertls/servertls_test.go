package servertls

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func load2(t *testing.T, dir string, hosts []string, now time.Time) (leaf *x509.Certificate, caPEM []byte) {
	t.Helper()
	cert, path, err := LoadOrCreate(dir, hosts, now)
	if err != nil {
		t.Fatal(err)
	}
	caPEM, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(caPEM)
	for _, host := range hosts {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: now}); err != nil {
			t.Fatalf("the certificate does not verify for %s: %v", host, err)
		}
	}
	return cert.Leaf, caPEM
}

func TestLoadOrCreate(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "tls"), time.Now()
	hosts := []string{"127.0.0.1", "localhost"}
	first, authority := load2(t, dir, hosts, now)
	for _, step := range []struct {
		name  string
		hosts []string
		at    time.Duration
		same  bool
	}{
		{"again", hosts, 0, true},
		{"a host fewer", hosts[:1], 0, true},
		{"well before its end", hosts, serverLife - renewAhead - time.Hour, true},
		{"near its end", hosts, serverLife - renewAhead + time.Hour, false},
		{"another host", []string{"icp.example"}, 0, false},
	} {
		t.Run(step.name, func(t *testing.T) {
			leaf, ca := load2(t, dir, step.hosts, now.Add(step.at))
			if !bytes.Equal(ca, authority) {
				t.Error("the authority changed: clients would stop to work")
			}
			if same := leaf.Equal(first); same != step.same {
				t.Errorf("same certificate: %v, want %v", same, step.same)
			}
		})
	}
	t.Run("keys are private", func(t *testing.T) {
		for _, name := range []string{caKeyFile, serverFile} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %s", name, info.Mode())
			}
		}
	})
	t.Run("expired authority", func(t *testing.T) {
		if _, _, err := LoadOrCreate(dir, hosts, now.Add(caLife+time.Hour)); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("damaged certificate", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(dir, serverFile), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := LoadOrCreate(dir, hosts, now); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("no host", func(t *testing.T) {
		if _, _, err := LoadOrCreate(t.TempDir(), nil, now); err == nil {
			t.Error("accepted")
		}
	})
}
