package cli

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// writeIdentity writes each SVID with its key and bundle, readable for the owner
// alone.
func writeIdentity(folder string, x *workloadapi.X509Context) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("make %s: %s", folder, reason(err))
	}
	for i, s := range x.SVIDs {
		bundle, err := bundlePEM(x, s)
		if err != nil {
			return err
		}
		certs, key, err := s.Marshal()
		if err != nil {
			return fmt.Errorf("encode the identity %s: %w", s.ID, err)
		}
		for name, content := range map[string][]byte{"svid.%d.pem": certs, "svid.%d.key": key, "bundle.%d.pem": bundle} {
			if err := writePrivate(filepath.Join(folder, fmt.Sprintf(name, i)), content); err != nil {
				return err
			}
		}
	}
	return nil
}

func bundlePEM(x *workloadapi.X509Context, s *x509svid.SVID) ([]byte, error) {
	bundle, err := x.Bundles.GetX509BundleForTrustDomain(s.ID.TrustDomain())
	if err != nil {
		return nil, fmt.Errorf("bundle of %s: %w", s.ID, err)
	}
	var out bytes.Buffer
	for _, cert := range bundle.X509Authorities() {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// writePrivate replaces a file, whatever mode the old one has.
func writePrivate(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".icp-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %s", path, reason(err))
	}
	defer os.Remove(tmp.Name()) // gone already if all went well
	_, err = tmp.Write(content)
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	return err
}
