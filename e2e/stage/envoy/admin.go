package envoy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Admin asks the admin port, by GET, for what is at path. An answer that is not
// 200 is an error.
func (e *Envoy) Admin(path string) ([]byte, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", e.AdminPort, path))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("envoy's %s answers %s: %s", path, resp.Status, body)
	}
	return body, err
}

// Version gives Envoy's version, such as "1.40.0".
func (e *Envoy) Version() (string, error) {
	body, err := e.Admin("/server_info")
	if err != nil {
		return "", err
	}
	var info struct {
		Version string `json:"version"` // commit/version/…
	}
	if err := json.Unmarshal(body, &info); err != nil {
		return "", fmt.Errorf("read Envoy's version: %w", err)
	}
	parts := strings.Split(info.Version, "/")
	if len(parts) < 2 {
		return "", fmt.Errorf("read Envoy's version: it is %q", info.Version)
	}
	return parts[1], nil
}

// Certificate is one that Envoy presents, or an authority that it trusts, as
// /certs shows it.
type Certificate struct {
	Serial string `json:"serial_number"` // hexadecimal, small letters
	SANs   []struct {
		URI string `json:"uri"`
	} `json:"subject_alt_names"`
	NotBefore time.Time `json:"valid_from"`
	NotAfter  time.Time `json:"expiration_time"`
}

// Chain is what one TLS context of Envoy holds. Either list may be empty.
type Chain struct {
	Authorities  []Certificate `json:"ca_cert"`
	Certificates []Certificate `json:"cert_chain"` // the leaf first
}

// Certs gives what every TLS context holds.
func (e *Envoy) Certs() ([]Chain, error) {
	body, err := e.Admin("/certs")
	if err != nil {
		return nil, err
	}
	var certs struct {
		Chains []Chain `json:"certificates"`
	}
	if err := json.Unmarshal(body, &certs); err != nil {
		return nil, fmt.Errorf("read Envoy's certificates: %w", err)
	}
	return certs.Chains, nil
}

// Serial gives the serial of the first certificate that Envoy presents,
// hexadecimal without leading zeros. It is an error if there is none yet.
func (e *Envoy) Serial() (string, error) {
	chains, err := e.Certs()
	if err != nil {
		return "", err
	}
	for _, chain := range chains {
		if len(chain.Certificates) > 0 {
			return strings.TrimLeft(chain.Certificates[0].Serial, "0"), nil
		}
	}
	return "", errors.New("envoy has no certificate")
}

// Stat gives the sum of the counters and gauges whose names end in suffix, such
// as "ssl.fail_verify_error". One of them must exist.
func (e *Envoy) Stat(t stage.T, suffix string) int {
	t.Helper()
	body, err := e.Admin("/stats")
	if err != nil {
		t.Fatalf("read Envoy's counters: %v", err)
	}
	sum, found := 0, false
	for line := range strings.Lines(string(body)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if !strings.HasSuffix(name, suffix) {
			continue
		}
		var n int
		if _, err := fmt.Sscan(value, &n); err != nil {
			t.Fatalf("counter %s is %q: %v", name, value, err)
		}
		sum, found = sum+n, true
	}
	if !found {
		t.Fatalf("envoy has no counter %s", suffix)
	}
	return sum
}
