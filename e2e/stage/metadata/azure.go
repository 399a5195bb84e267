package metadata

import (
	"cmp"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/smallstep/pkcs7"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/pki"
)

// AzureInstance is a virtual machine. Empty fields get the values of some machine.
type AzureInstance struct {
	VMID           string // UUID
	Name           string
	SubscriptionID string // UUID
	ResourceGroup  string
	TenantID       string // UUID
	PrincipalID    string // UUID of its managed identity
	ClientID       string // UUID of its managed identity's application
	Location       string
	SKU            string
	PlanName       string // of a Marketplace image; often there is none
	Issuer         string // of its managed identity's tokens; the service's own with the tenant if empty
}

// ResourceID is the machine's path in Azure Resource Manager.
func (i AzureInstance) ResourceID() string {
	return fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/virtualMachines/%s", i.SubscriptionID, i.ResourceGroup, i.Name)
}

// AzureForgery adds to Forgery what may be false of the attested document.
type AzureForgery struct {
	Forgery
	// Name is whom the signer's certificate is for, if not metadata.azure.com.
	Name string
	// Decoy puts the honest certificate before that of a stranger who signed.
	Decoy bool
}

// Azure is Azure's instance metadata service, as far as it serves
//
//	/metadata/attested/document?api-version=…[&nonce=…]           PKCS#7 with the signer's certificate
//	/metadata/identity/oauth2/token?api-version=…&resource=…      JWT of the machine's managed identity
//	/metadata/instance?api-version=…                              JSON that nobody signs
//
// The signer's certificate names the address of its issuer's, Intermediate, which
// the attested document does not have.
type Azure struct {
	Service
	Issuer             *Issuer
	Root, Intermediate *x509.Certificate

	instance         AzureInstance
	honest, stranger azureSigner
	signs            azureSigner         // one of them, or with another certificate
	decoy            []*x509.Certificate // before the signer's
}

// azureSigner signs attested documents.
type azureSigner struct {
	authority   *pki.Authority
	issuerURL   string // of the authority's certificate
	key         *rsa.PrivateKey
	certificate *x509.Certificate
}

// StartAzure starts the service at l, or at a loopback port if l is nil.
func StartAzure(t stage.T, l net.Listener, i AzureInstance) *Azure {
	t.Helper()
	root := pki.NewRSA(t, "Stage Global Root G2")
	a := &Azure{Issuer: newIssuer(t), Root: root.Certificate}
	a.SetInstance(i)
	a.honest = newAzureSigner(t, root, 1)
	a.stranger = newAzureSigner(t, pki.NewRSA(t, "Stage Global Root G2"), 2)
	a.Intermediate, a.signs = a.honest.authority.Certificate, a.honest
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metadata/attested/document", answering("application/json", a.checked(a.attested)))
	mux.HandleFunc("GET /metadata/identity/oauth2/token", answering("application/json", a.checked(a.token)))
	mux.HandleFunc("GET /metadata/instance", answering("application/json", a.checked(a.describe)))
	a.start(t, l, mux)
	return a
}

// newAzureSigner makes a signer below a root, and has its issuer's certificate
// fetched from a loopback port.
func newAzureSigner(t stage.T, root *pki.Authority, serial int64) azureSigner {
	t.Helper()
	s := azureSigner{authority: root.Intermediate(t, "Stage Azure RSA TLS Issuing CA 03"), key: pki.RSA(t)}
	l := loopback(t)
	s.issuerURL = "http://" + l.Addr().String() + "/issuing.crt"
	serve(t, l, answering("application/pkix-cert", func(*http.Request) ([]byte, error) { return s.authority.Certificate.Raw, nil }))
	return s.named(t, "metadata.azure.com", serial)
}

// named gives the signer with a certificate for a name.
func (s azureSigner) named(t stage.T, name string, serial int64) azureSigner {
	t.Helper()
	s.certificate = s.authority.Sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name, Organization: []string{"Stage"}},
		DNSNames: []string{"northeurope." + name, name}, IssuingCertificateURL: []string{s.issuerURL},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, s.key.Public())
	return s
}

// Forge makes the answers false from now on, or honest again.
func (a *Azure) Forge(t stage.T, f AzureForgery) {
	t.Helper()
	signs, decoy := a.honest, []*x509.Certificate(nil)
	if f.Stranger || f.Decoy {
		signs = a.stranger
	}
	if f.Name != "" {
		signs = signs.named(t, f.Name, 3)
	}
	if f.Decoy {
		decoy = append(decoy, a.honest.certificate)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forgery, a.signs, a.decoy = f.Forgery, signs, decoy
}

// SetInstance makes the service that of another machine.
func (a *Azure) SetInstance(i AzureInstance) {
	a.mu.Lock()
	defer a.mu.Unlock()
	tenant := cmp.Or(i.TenantID, "11111111-2222-4333-8444-555555555555")
	a.instance = AzureInstance{
		VMID:           cmp.Or(i.VMID, "6b1f9f5e-0c43-4f0e-9d3c-8f9f0b3f1a01"),
		Name:           cmp.Or(i.Name, "node-1"),
		SubscriptionID: cmp.Or(i.SubscriptionID, "5c1f2e3d-4b5a-4968-8776-655443322110"),
		ResourceGroup:  cmp.Or(i.ResourceGroup, "stage-group"),
		TenantID:       tenant,
		PrincipalID:    cmp.Or(i.PrincipalID, "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"),
		ClientID:       cmp.Or(i.ClientID, "9f8e7d6c-5b4a-4392-8170-6f5e4d3c2b1a"),
		Location:       cmp.Or(i.Location, "northeurope"),
		SKU:            cmp.Or(i.SKU, "22_04-lts-gen2"),
		PlanName:       i.PlanName,
		Issuer:         cmp.Or(i.Issuer, a.Issuer.URL+"/"+tenant+"/"),
	}
}

// checked answers requests that are meant for the service and name a version.
func (a *Azure) checked(answer func(*http.Request) ([]byte, error)) func(*http.Request) ([]byte, error) {
	return func(r *http.Request) ([]byte, error) {
		if r.Header.Get("Metadata") != "true" || r.Header.Get("X-Forwarded-For") != "" {
			return nil, refusal{http.StatusBadRequest, `{"error":"invalid_request","error_description":"Required metadata header not specified"}`}
		}
		if r.URL.Query().Get("api-version") == "" {
			return nil, refusal{http.StatusBadRequest, `{"error":"Bad request. api-version is invalid or was not specified in the request.","newest-versions":["2025-04-07"]}`}
		}
		return answer(r)
	}
}

// attestedDocument is what is signed.
type attestedDocument struct {
	LicenseType    string `json:"licenseType"`
	Nonce          string `json:"nonce"`
	Plan           plan   `json:"plan"`
	SKU            string `json:"sku"`
	SubscriptionID string `json:"subscriptionId"`
	TimeStamp      struct {
		CreatedOn string `json:"createdOn"`
		ExpiresOn string `json:"expiresOn"`
	} `json:"timeStamp"`
	VMID string `json:"vmId"`
}

type plan struct {
	Name      string `json:"name"`
	Product   string `json:"product"`
	Publisher string `json:"publisher"`
}

// attestedLife is that of an attested document.
const attestedLife = 6 * time.Hour

func (a *Azure) attested(r *http.Request) ([]byte, error) {
	a.mu.Lock()
	i, f, signs, decoy := a.instance, a.forgery, a.signs, a.decoy
	a.mu.Unlock()
	now := time.Now().UTC().Add(-f.Age)
	d := attestedDocument{
		Nonce: cmp.Or(r.URL.Query().Get("nonce"), now.Format("20060102-150405")),
		Plan:  plan{Name: i.PlanName}, SKU: i.SKU, SubscriptionID: i.SubscriptionID, VMID: i.VMID,
	}
	const layout = "01/02/06 15:04:05 -0000"
	d.TimeStamp.CreatedOn, d.TimeStamp.ExpiresOn = now.Format(layout), now.Add(attestedLife).Format(layout)
	content, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	raw, err := signs.sign(content, decoy)
	if err != nil {
		return nil, err
	}
	if raw, err = f.tamper(raw); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]string{"encoding": "pkcs7", "signature": base64.StdEncoding.EncodeToString(raw)})
}

// sign gives PKCS#7 as Azure makes it: without attributes, and with a signature's
// name where the digest's should be.
func (s azureSigner) sign(content []byte, decoy []*x509.Certificate) ([]byte, error) {
	data, err := pkcs7.NewSignedData(content)
	if err != nil {
		return nil, err
	}
	for _, certificate := range decoy {
		data.AddCertificate(certificate)
	}
	data.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	data.SetEncryptionAlgorithm(pkcs7.OIDEncryptionAlgorithmRSA)
	if err := data.SignWithoutAttr(s.certificate, s.key, pkcs7.SignerInfoConfig{}); err != nil {
		return nil, err
	}
	digest := pkix.AlgorithmIdentifier{Algorithm: pkcs7.OIDEncryptionAlgorithmRSASHA256, Parameters: asn1.NullRawValue}
	written := data.GetSignedData()
	written.DigestAlgorithmIdentifiers[0], written.SignerInfos[0].DigestAlgorithm = digest, digest
	written.SignerInfos[0].DigestEncryptionAlgorithm.Parameters = asn1.NullRawValue
	return data.Finish()
}

// managedLife is that of a managed identity's token.
const managedLife = 24 * time.Hour

func (a *Azure) token(r *http.Request) ([]byte, error) {
	resource := r.URL.Query().Get("resource")
	if resource == "" {
		return nil, refusal{http.StatusBadRequest, `{"error":"invalid_request","error_description":"Required query variable 'resource' is missing"}`}
	}
	a.mu.Lock()
	i, f := a.instance, a.forgery
	a.mu.Unlock()
	from := time.Now().Add(-f.Age)
	token, err := a.Issuer.token(map[string]any{
		"aud": resource, "iss": i.Issuer, "idp": i.Issuer, "tid": i.TenantID, "ver": "1.0",
		"iat": from.Unix(), "nbf": from.Unix(), "exp": from.Add(managedLife).Unix(),
		"appid": i.ClientID, "appidacr": "2", "idtyp": "app", "oid": i.PrincipalID, "sub": i.PrincipalID,
		"xms_mirid": strings.Replace(i.ResourceID(), "/resourceGroups/", "/resourcegroups/", 1), // as Entra ID writes it
	}, f)
	if err != nil {
		return nil, err
	}
	life, end := strconv.Itoa(int(managedLife/time.Second)), strconv.FormatInt(from.Add(managedLife).Unix(), 10)
	return json.Marshal(map[string]string{
		"access_token": string(token), "client_id": i.ClientID, "resource": resource, "token_type": "Bearer",
		"expires_in": life, "ext_expires_in": life, "expires_on": end, "not_before": strconv.FormatInt(from.Unix(), 10),
	})
}

func (a *Azure) describe(*http.Request) ([]byte, error) {
	a.mu.Lock()
	i := a.instance
	a.mu.Unlock()
	return json.Marshal(map[string]any{
		"compute": map[string]any{
			"azEnvironment": "AzurePublicCloud", "location": i.Location, "name": i.Name, "osType": "Linux",
			"plan": plan{Name: i.PlanName}, "provider": "Microsoft.Compute", "resourceGroupName": i.ResourceGroup, "resourceId": i.ResourceID(),
			"sku": i.SKU, "subscriptionId": i.SubscriptionID, "tags": "", "vmId": i.VMID, "vmScaleSetName": "", "vmSize": "Standard_B1s", "zone": "",
		},
		"network": map[string]any{"interface": []any{}},
	})
}
