package controlplane

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/server/secret"
	"github.com/authsec-ai/icp/server/store"
)

func open(t *testing.T, dir string) *ControlPlane {
	t.Helper()
	tel, err := telemetry.New("test", t.Output(), 0)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Defaults()
	cfg.Listen, cfg.DataDir = "127.0.0.1:0", dir
	c, err := Open(t.Context(), cfg, tel)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// TestAdminToken is the way in to a new server: whatever a crash left of its
// file, a start gives one that works, and a file that is whole stays.
func TestAdminToken(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	for _, name := range []string{"absent", "empty", "blank"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if content, ok := map[string]string{"empty": "", "blank": "\n"}[name]; ok {
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			token, err := c.AdminToken(t.Context(), path, "", store.PlatformAdmin)
			if err != nil {
				t.Fatal(err)
			}
			known, err := c.Store.APITokenByHash(t.Context(), secret.Hash(token))
			if err != nil || known.Role != store.PlatformAdmin {
				t.Errorf("token %q is of role %q (%v)", token, known.Role, err)
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the file has mode %v (%v), want 0600", info.Mode(), err)
			}
			again, err := c.AdminToken(t.Context(), path, "", store.PlatformAdmin)
			if err != nil || again != token {
				t.Errorf("then it is %q (%v), want the same", again, err)
			}
		})
	}
}

// TestCertificateOutlivesItsFiles breaks the folder of a running server: new
// connections get the certificate that it has.
func TestCertificateOutlivesItsFiles(t *testing.T) {
	dir := t.TempDir()
	cfg := Defaults()
	cfg.DataDir = dir
	_, caFile, err := loadCertificate(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	own := &ownCertificate{dir: dir, hosts: cfg.TLS.Hosts, log: slog.New(slog.DiscardHandler)}
	before, err := own.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(caFile, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	own.due = time.Now() // an hour later
	after, err := own.get(nil)
	if err != nil || !bytes.Equal(after.Certificate[0], before.Certificate[0]) {
		t.Errorf("the certificate is %v (%v), want the one before", after, err)
	}
	t.Run("not without one", func(t *testing.T) {
		if _, _, err := loadCertificate(cfg, slog.New(slog.DiscardHandler)); err == nil {
			t.Error("a start goes on without a certificate")
		}
	})
}
