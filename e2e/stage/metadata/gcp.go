package metadata

import (
	"cmp"
	"net"
	"net/http"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// GCPInstance is what the identity token tells of a Compute Engine instance.
// Empty fields get the values of some instance.
type GCPInstance struct {
	ProjectID      string
	ProjectNumber  int64
	Zone           string
	InstanceID     string // decimal digits
	InstanceName   string
	Created        time.Time // zero is an hour before the service's start
	ServiceAccount string    // e-mail address
	Subject        string    // the service account's number
	Issuer         string    // the service's own if empty; Google's is https://accounts.google.com
}

// GCP is Compute Engine's metadata server as far as it serves the identity token:
//
//	/computeMetadata/v1/instance/service-accounts/default/identity?audience=…[&format=full]
type GCP struct {
	Service
	Issuer *Issuer

	instance GCPInstance
	started  time.Time
}

// StartGCP starts the service at l, or at a loopback port if l is nil.
func StartGCP(t stage.T, l net.Listener, i GCPInstance) *GCP {
	t.Helper()
	g := &GCP{Issuer: newIssuer(t), started: time.Now()}
	g.SetInstance(i)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /computeMetadata/v1/instance/service-accounts/default/identity", answering("text/html", g.identity))
	g.start(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		mux.ServeHTTP(w, r)
	}))
	return g
}

// SetInstance makes the service that of another instance.
func (g *GCP) SetInstance(i GCPInstance) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.instance = GCPInstance{
		ProjectID:      cmp.Or(i.ProjectID, "stage-project"),
		ProjectNumber:  cmp.Or(i.ProjectNumber, 123456789012),
		Zone:           cmp.Or(i.Zone, "europe-north1-a"),
		InstanceID:     cmp.Or(i.InstanceID, "1234567890123456789"),
		InstanceName:   cmp.Or(i.InstanceName, "node-1"),
		Created:        i.Created,
		ServiceAccount: cmp.Or(i.ServiceAccount, "123456789012-compute@developer.gserviceaccount.com"),
		Subject:        cmp.Or(i.Subject, "109876543210987654321"),
		Issuer:         cmp.Or(i.Issuer, g.Issuer.URL),
	}
	if i.Created.IsZero() {
		g.instance.Created = g.started.Add(-time.Hour)
	}
}

// tokenLife is that of a Google identity token.
const tokenLife = time.Hour

func (g *GCP) identity(r *http.Request) ([]byte, error) {
	switch audience := r.URL.Query().Get("audience"); {
	case r.Header.Get("Metadata-Flavor") != "Google":
		return nil, refusal{http.StatusForbidden, "Missing Metadata-Flavor:Google header."}
	case r.Header.Get("X-Forwarded-For") != "":
		return nil, refusal{http.StatusForbidden, "X-Forwarded-For is not allowed."}
	case audience == "":
		return nil, refusal{http.StatusBadRequest, "non-empty audience parameter required"}
	default:
		return g.Issuer.token(g.claims(audience, r.URL.Query().Get("format") == "full"), g.forging())
	}
}

func (g *GCP) claims(audience string, full bool) map[string]any {
	g.mu.Lock()
	defer g.mu.Unlock()
	i, now := g.instance, time.Now().Add(-g.forgery.Age)
	claims := map[string]any{
		"iss": i.Issuer, "aud": audience, "sub": i.Subject, "azp": i.Subject,
		"iat": now.Unix(), "exp": now.Add(tokenLife).Unix(),
	}
	if full {
		claims["email"], claims["email_verified"] = i.ServiceAccount, true
		claims["google"] = map[string]any{"compute_engine": map[string]any{
			"project_id": i.ProjectID, "project_number": i.ProjectNumber, "zone": i.Zone,
			"instance_id": i.InstanceID, "instance_name": i.InstanceName, "instance_creation_timestamp": i.Created.Unix(),
		}}
	}
	return claims
}
