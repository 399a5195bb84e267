// Package servertls makes a TLS certificate for a server that has none, under a
// certificate authority of its own. It is for development and small private
// installations; clients are given the authority's certificate as a file.
//
// The authority stays the same as long as its folder does, so that clients keep
// working when the server's certificate is renewed.
package servertls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	caLife     = 10 * 365 * 24 * time.Hour
	serverLife = 90 * 24 * time.Hour
	renewAhead = 30 * 24 * time.Hour // of the end
	backdate   = time.Minute         // for clients whose clock is behind
)

// Names of the files in the folder.
const (
	caFile     = "server-ca.pem"
	caKeyFile  = "server-ca.key"
	serverFile = "server.pem" // certificate and key
)

// LoadOrCreate gives a certificate for the hosts (names and IP addresses) and
// the path of the PEM file with the authority that clients must trust. What is
// missing in dir, about to expire at now, or for other hosts, is made anew.
func LoadOrCreate(dir string, hosts []string, now time.Time) (cert tls.Certificate, caPEMPath string, err error) {
	if len(hosts) == 0 {
		return cert, "", errors.New("make a server certificate: name at least one host")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return cert, "", fmt.Errorf("make the folder of the server certificate: %w", err)
	}
	authority, err := loadOrCreateCA(dir, now)
	if err != nil {
		return cert, "", err
	}
	path := filepath.Join(dir, serverFile)
	cert, err = load(path, path)
	if err == nil && authority.stillGood(cert.Leaf, hosts, now) {
		return cert, filepath.Join(dir, caFile), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cert, "", fmt.Errorf("read the server certificate: %w", err)
	}
	cert, err = authority.issue(path, hosts, now)
	return cert, filepath.Join(dir, caFile), err
}

// authority signs server certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func loadOrCreateCA(dir string, now time.Time) (*authority, error) {
	certPath, keyPath := filepath.Join(dir, caFile), filepath.Join(dir, caKeyFile)
	pair, err := load(certPath, keyPath)
	if errors.Is(err, fs.ErrNotExist) {
		return createCA(certPath, keyPath, now)
	}
	if err != nil {
		return nil, fmt.Errorf("read the authority of the server certificate: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read the authority of the server certificate: the key in %s is not an EC key", keyPath)
	}
	if now.After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("the authority in %s expired at %s: remove it and its key, and give the new one to all clients", certPath, pair.Leaf.NotAfter)
	}
	return &authority{cert: pair.Leaf, key: key}, nil
}

func createCA(certPath, keyPath string, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "ICP server CA " + serial.Text(16)[:8]},
		NotBefore:    now.Add(-backdate), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("sign the authority of the server certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back the authority of the server certificate: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	// The key first: a certificate without its key would be trusted in vain.
	if err := writeFile(keyPath, keyPEM, 0o600); err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key}, writeFile(certPath, encodeCert(der), 0o644)
}

// stillGood reports whether leaf can be used on: ours, for all hosts, and not
// about to expire.
func (a *authority) stillGood(leaf *x509.Certificate, hosts []string, now time.Time) bool {
	return leaf.CheckSignatureFrom(a.cert) == nil && now.Add(renewAhead).Before(leaf.NotAfter) && now.After(leaf.NotBefore) &&
		!slices.ContainsFunc(hosts, func(host string) bool { return leaf.VerifyHostname(host) != nil })
}

func (a *authority) issue(path string, hosts []string, now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "ICP server"},
		NotBefore:    now.Add(-backdate), NotAfter: now.Add(serverLife),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign the server certificate: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	if err := writeFile(path, slices.Concat(encodeCert(der), keyPEM), 0o600); err != nil {
		return tls.Certificate{}, err
	}
	return load(path, path)
}

func load(certPath, keyPath string) (tls.Certificate, error) {
	return tls.LoadX509KeyPair(certPath, keyPath)
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return serial.SetBit(serial, 126, 1), nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// writeFile replaces path as a whole or not at all, so that a crash leaves no
// half of a certificate.
func writeFile(path string, content []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.ReadFrom(bytes.NewReader(content))
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
