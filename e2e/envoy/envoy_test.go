package envoy

import (
	"bytes"
	_ "embed"
	"fmt"
	"testing"
	"text/template"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/envoy"
)

//go:embed testdata/envoy.yaml
var configText string

// settings fill in the configuration.
type settings struct {
	Socket          string // of the agent
	API             string // GRPC or DELTA_GRPC
	CertificateName string
	ValidationName  string
	ClientID        spiffeid.ID
	Port            int
	AdminPort       int // 0 is a free one
}

// edge is a running Envoy with the configuration of docs/sds-envoy.md.
type edge struct {
	*envoy.Envoy
	settings
}

// startEdge starts Envoy as uid.
func startEdge(t *testing.T, uid uint32, s settings) *edge {
	t.Helper()
	s.Port = stage.FreePort(t)
	var config bytes.Buffer
	if err := template.Must(template.New("").Parse(configText)).Execute(&config, s); err != nil {
		t.Fatalf("fill in Envoy's configuration: %v", err)
	}
	return &edge{Envoy: envoy.Start(t, config.String(), envoy.Options{UID: uid}), settings: s}
}

func (e *edge) addr() string { return fmt.Sprintf("127.0.0.1:%d", e.Port) }
