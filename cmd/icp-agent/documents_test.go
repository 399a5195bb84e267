package main

import (
	"testing"

	"github.com/authsec-ai/icp/internal/config/configtest"
)

func TestDocuments(t *testing.T) {
	s := defaults()
	configtest.CheckPage(t, "../../docs/configuration.md", "icp-agent", s)
	configtest.CheckExample(t, "../../deploy/examples/icp-agent.yaml", &s)
}
