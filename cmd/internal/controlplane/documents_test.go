package controlplane_test

import (
	"testing"

	"github.com/authsec-ai/icp/cmd/internal/controlplane"
	"github.com/authsec-ai/icp/internal/config/configtest"
)

func TestDocuments(t *testing.T) {
	defaults := controlplane.Defaults()
	configtest.CheckPage(t, "../../../docs/configuration.md", "icp-server", defaults)
	configtest.CheckExample(t, "../../../deploy/examples/icp-server.yaml", &defaults)
}
