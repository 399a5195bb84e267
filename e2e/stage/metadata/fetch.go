package metadata

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Fetch gives one of document, signature, rsa2048 and pkcs7, as the instance
// would get it; the service must be at a loopback port.
func (a *AWS) Fetch(t stage.T, name string) string {
	t.Helper()
	token := fetched(t, http.MethodPut, a.URL+"/latest/api/token", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
	return fetched(t, http.MethodGet, a.URL+"/latest/dynamic/instance-identity/"+name, "X-Aws-Ec2-Metadata-Token", token)
}

// Fetch gives the full identity token for an audience, as the instance would get
// it; the service must be at a loopback port.
func (g *GCP) Fetch(t stage.T, audience string) string {
	t.Helper()
	return fetched(t, http.MethodGet, g.address(audience), "Metadata-Flavor", "Google")
}

func (g *GCP) address(audience string) string {
	query := url.Values{"audience": {audience}, "format": {"full"}}
	return g.URL + "/computeMetadata/v1/instance/service-accounts/default/identity?" + query.Encode()
}

// Fetch gives the attested document (base64 of PKCS#7) for a nonce, as the
// machine would get it; the service must be at a loopback port.
func (a *Azure) Fetch(t stage.T, nonce string) string {
	t.Helper()
	var answer struct{ Encoding, Signature string }
	a.fetch(t, "attested/document", url.Values{"nonce": {nonce}}, &answer)
	if answer.Encoding != "pkcs7" {
		t.Fatalf("the attested document is %q; want pkcs7", answer.Encoding)
	}
	return answer.Signature
}

// FetchToken gives the managed identity's token for a resource, as the machine
// would get it; the service must be at a loopback port.
func (a *Azure) FetchToken(t stage.T, resource string) string {
	t.Helper()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	a.fetch(t, "identity/oauth2/token", url.Values{"resource": {resource}}, &answer)
	return answer.AccessToken
}

func (a *Azure) fetch(t stage.T, path string, query url.Values, into any) {
	t.Helper()
	query.Set("api-version", "2021-02-01")
	body := fetched(t, http.MethodGet, a.URL+"/metadata/"+path+"?"+query.Encode(), "Metadata", "true")
	if err := json.Unmarshal([]byte(body), into); err != nil {
		t.Fatalf("read %s: %v: %s", path, err, body)
	}
}

// fetched gives the body of an answer that must be 200.
func fetched(t stage.T, method, address string, header ...string) string {
	t.Helper()
	status, body := ask(t, http.DefaultClient, method, address, header...)
	if status != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, address, status, body)
	}
	return body
}

// ask sends a request with headers, a name and a value each.
func ask(t stage.T, client *http.Client, method, address string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, nil)
	if err != nil {
		t.Fatalf("ask a metadata service: %v", err)
	}
	req.Close = true
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("ask a metadata service: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("ask a metadata service: %v", err)
	}
	return resp.StatusCode, string(body)
}
