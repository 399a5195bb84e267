package main

import (
	"testing"

	"github.com/authsec-ai/icp/internal/config/configtest"
	"github.com/authsec-ai/icp/proxy"
)

func TestDocuments(t *testing.T) {
	settings := proxy.Defaults()
	configtest.CheckPage(t, "../../docs/configuration.md", "agentauth-proxy", settings)
	configtest.CheckExample(t, "../../deploy/examples/agentauth-proxy.yaml", &settings)
	if len(settings.Routes) == 0 || settings.Routes[0].Credential == nil {
		t.Error("the example shows no route with a credential")
	}
}
