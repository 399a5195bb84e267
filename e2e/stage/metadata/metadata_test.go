package metadata

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"

	"github.com/authsec-ai/icp/e2e/stage"
)

func TestProve(t *testing.T) {
	t.Run("AWS", func(t *testing.T) { t.Log(ProveAWS(t).Fact) })
	t.Run("GCP", func(t *testing.T) { t.Log(ProveGCP(t).Fact) })
	t.Run("Azure", func(t *testing.T) { t.Log(ProveAzure(t).Fact) })
}

func TestAWSTokens(t *testing.T) {
	a := StartAWS(t, nil, AWSInstance{})
	const ttl, document = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "/latest/dynamic/instance-identity/document"
	for _, c := range []struct {
		header []string
		want   int
	}{
		{nil, http.StatusBadRequest},
		{[]string{ttl, "0"}, http.StatusBadRequest},
		{[]string{ttl, "21601"}, http.StatusBadRequest},
		{[]string{ttl, "21600"}, http.StatusOK},
		{[]string{ttl, "21600", "X-Forwarded-For", "10.0.0.1"}, http.StatusForbidden},
	} {
		if got, body := ask(t, http.DefaultClient, http.MethodPut, a.URL+"/latest/api/token", c.header...); got != c.want {
			t.Errorf("a token with %v: %d %s; want %d", c.header, got, body, c.want)
		}
	}
	token := fetched(t, http.MethodPut, a.URL+"/latest/api/token", ttl, "1")
	get := func(token string) int {
		status, _ := ask(t, http.DefaultClient, http.MethodGet, a.URL+document, "X-Aws-Ec2-Metadata-Token", token)
		return status
	}
	if got := get("made-up"); got != http.StatusUnauthorized {
		t.Errorf("a made-up token: %d", got)
	}
	stage.Eventually(t, time.Minute, func() error {
		if got := get(token); got != http.StatusUnauthorized {
			return fmt.Errorf("a token of one second: %d", got)
		}
		return nil
	})
}

func TestAWSDocument(t *testing.T) {
	launched := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	a := StartAWS(t, nil, AWSInstance{AccountID: "222233334444", PendingTime: launched})
	var d struct{ AccountID, PendingTime, Region, InstanceID string }
	read := func() {
		t.Helper()
		if err := json.Unmarshal([]byte(a.Fetch(t, "document")), &d); err != nil {
			t.Fatal(err)
		}
	}
	read()
	if d.AccountID != "222233334444" || d.PendingTime != "2026-03-04T05:06:07Z" || d.Region == "" || d.InstanceID == "" {
		t.Errorf("the document is %+v", d)
	}
	a.Forge(Forgery{Age: time.Hour})
	a.SetInstance(AWSInstance{InstanceID: "i-1", PendingTime: launched})
	if read(); d.AccountID == "222233334444" || d.InstanceID != "i-1" || d.PendingTime != "2026-03-04T04:06:07Z" {
		t.Errorf("another instance's document is %+v", d)
	}
	if raw := decoded(t, a.Fetch(t, "rsa2048")); !bytes.HasPrefix(raw, []byte{0x30, 0x80}) {
		t.Errorf("rsa2048 begins with %x; want an indefinite length, as AWS has it", raw[:2])
	}
	a.Forge(Forgery{Replace: "not there", With: "no matter"})
	if err := stage.Run(t.Context(), func(s *stage.Session) { a.Fetch(s, "document") }); err == nil || !strings.Contains(err.Error(), "can't forge") {
		t.Errorf("a forgery that can't be: %v", err)
	}
}

// TestMachine asks from a machine of its own at the address that clouds have.
func TestMachine(t *testing.T) {
	m := stage.NewMachine(t, stage.CgroupsHost)
	m.Output(t, exec.Command("ip", "address", "add", "169.254.169.254/32", "dev", "lo"))
	l, err := m.Listen("tcp", "169.254.169.254:80")
	if err != nil {
		t.Fatal(err)
	}
	g := StartGCP(t, l, GCPInstance{InstanceName: "inside"})
	if g.URL != "http://169.254.169.254:80" {
		t.Errorf("the service is at %s", g.URL)
	}
	inside := &http.Client{Transport: &http.Transport{DialContext: m.DialContext}}
	status, token := ask(t, inside, http.MethodGet, g.address("https://icp.example"), "Metadata-Flavor", "Google")
	claims, err := checkToken(t, g.Issuer, token)
	if status != http.StatusOK || err != nil || !strings.Contains(fmt.Sprint(claims), "instance_name:inside") {
		t.Errorf("claims %v, error %v", claims, err)
	}
}

func TestGCP(t *testing.T) {
	g := StartGCP(t, nil, GCPInstance{Issuer: "https://accounts.google.com"})
	address, google := g.address("https://icp.example"), []string{"Metadata-Flavor", "Google"}
	token := fetched(t, http.MethodGet, strings.Replace(address, "format=full", "format=standard", 1), google...)
	claims, err := checkToken(t, g.Issuer, token)
	if err != nil || claims["google"] != nil || claims["iss"] != "https://accounts.google.com" {
		t.Errorf("the standard token has claims %v, error %v; want no google", claims, err)
	}
	if status, said := ask(t, http.DefaultClient, http.MethodGet, g.address(""), google...); status != http.StatusBadRequest {
		t.Errorf("no audience: %d %s", status, said)
	}
	if status, said := ask(t, http.DefaultClient, http.MethodGet, address, append(google, "X-Forwarded-For", "10.0.0.1")...); status != http.StatusForbidden {
		t.Errorf("a forwarded request: %d %s", status, said)
	}
	g.Forge(Forgery{Age: 2 * time.Hour})
	claims, err = checkToken(t, g.Issuer, g.Fetch(t, "https://icp.example"))
	if err != nil || int64(claims["exp"].(float64)) > time.Now().Unix() {
		t.Errorf("the old token has claims %v, error %v; want it expired", claims, err)
	}
	_, about := ask(t, g.Issuer.HTTP(), http.MethodGet, g.Issuer.URL+"/.well-known/openid-configuration")
	if !strings.Contains(about, g.Issuer.JWKSURI) {
		t.Errorf("the issuer says of itself: %s", about)
	}
}

// attested reads an attested document without checking who signed.
func attested(t *testing.T, a *Azure, nonce string) (*pkcs7.PKCS7, attestedDocument) {
	t.Helper()
	p7, err := pkcs7.Parse(decoded(t, a.Fetch(t, nonce)))
	if err != nil {
		t.Fatal(err)
	}
	if err := p7.Verify(); err != nil {
		t.Fatal(err)
	}
	var d attestedDocument
	if err := json.Unmarshal(p7.Content, &d); err != nil {
		t.Fatal(err)
	}
	return p7, d
}

func TestAzureDocument(t *testing.T) {
	a := StartAzure(t, nil, AzureInstance{SubscriptionID: "11111111-1111-4111-8111-111111111111", PlanName: "gold"})
	p7, d := attested(t, a, "4711")
	if d.Nonce != "4711" || d.SubscriptionID != "11111111-1111-4111-8111-111111111111" || d.VMID == "" || d.SKU == "" || d.Plan.Name != "gold" {
		t.Errorf("the document is %+v", d)
	}
	if len(p7.Certificates) != 1 || p7.Certificates[0].Subject.CommonName != "metadata.azure.com" {
		t.Fatalf("it has %d certificates; want that of metadata.azure.com alone", len(p7.Certificates))
	}
	_, raw := ask(t, http.DefaultClient, http.MethodGet, p7.Certificates[0].IssuingCertificateURL[0])
	if raw != string(a.Intermediate.Raw) {
		t.Error("the signer's certificate names an address that has not its issuer's")
	}
	if _, d := attested(t, a, ""); len(d.Nonce) != len("20060102-150405") {
		t.Errorf("without a nonce it is %q; want the time", d.Nonce)
	}
	a.Forge(t, AzureForgery{Forgery: Forgery{Age: 7 * time.Hour}})
	_, d = attested(t, a, "4711")
	if expired, err := time.Parse("01/02/06 15:04:05 -0700", d.TimeStamp.ExpiresOn); err != nil || time.Now().Before(expired) {
		t.Errorf("the old document expires on %s, error %v; want it in the past", d.TimeStamp.ExpiresOn, err)
	}
}

// TestAzureForgeries shows that the false signers would deceive whoever looks at
// less than the chain and the name of the certificate that signed.
func TestAzureForgeries(t *testing.T) {
	a := StartAzure(t, nil, AzureInstance{})
	trusted := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	trusted.Roots.AddCert(a.Root)
	trusted.Intermediates.AddCert(a.Intermediate)
	a.Forge(t, AzureForgery{Decoy: true})
	p7, _ := attested(t, a, "1")
	if _, err := p7.Certificates[0].Verify(trusted); err != nil {
		t.Errorf("the decoy, which is first: %v", err)
	}
	if _, err := p7.Certificates[1].Verify(trusted); err == nil {
		t.Error("the stranger's certificate verifies")
	}
	a.Forge(t, AzureForgery{Name: "metadata.azure.com.evil.example"})
	p7, _ = attested(t, a, "1")
	if _, err := p7.Certificates[0].Verify(trusted); err != nil {
		t.Errorf("another name below the honest root: %v", err)
	}
	if err := p7.Certificates[0].VerifyHostname("metadata.azure.com"); err == nil {
		t.Error("the certificate of another name is for metadata.azure.com, too")
	}
}

func TestAzureToken(t *testing.T) {
	a := StartAzure(t, nil, AzureInstance{TenantID: "22222222-2222-4222-8222-222222222222"})
	token := a.FetchToken(t, "https://icp.example")
	claims, err := checkToken(t, a.Issuer, token)
	if err != nil || claims["aud"] != "https://icp.example" || claims["tid"] != "22222222-2222-4222-8222-222222222222" ||
		claims["iss"] != a.Issuer.URL+"/22222222-2222-4222-8222-222222222222/" ||
		!strings.HasSuffix(claims["xms_mirid"].(string), "/providers/Microsoft.Compute/virtualMachines/node-1") {
		t.Errorf("claims %v, error %v", claims, err)
	}
	a.Forge(t, AzureForgery{Forgery: Forgery{Stranger: true}})
	if _, err := checkToken(t, a.Issuer, a.FetchToken(t, "https://icp.example")); err == nil {
		t.Error("a stranger's token verifies")
	}
	for path, want := range map[string]int{
		"identity/oauth2/token?api-version=2018-02-01": http.StatusBadRequest, // no resource
		"attested/document":                            http.StatusBadRequest, // no version
		"instance?api-version=2021-02-01":              http.StatusOK,
	} {
		if got, said := ask(t, http.DefaultClient, http.MethodGet, a.URL+"/metadata/"+path, "Metadata", "true"); got != want {
			t.Errorf("%s: %d %s; want %d", path, got, said, want)
		}
	}
	var about struct {
		Compute struct{ VMID, ResourceID string }
	}
	a.fetch(t, "instance", map[string][]string{}, &about)
	if about.Compute.VMID == "" || about.Compute.ResourceID != a.instance.ResourceID() {
		t.Errorf("the machine is %+v", about)
	}
}
