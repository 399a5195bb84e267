package cli

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this program", Args: takes(0, 0), Example: "  icp version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := buildVersion()
			return a.show(cmd, v, [2]string{"version", v.Version}, [2]string{"commit", v.Commit}, [2]string{"go", v.Go})
		},
	}
}

type version struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"` // if the build recorded it
	Go      string `json:"go"`
}

// buildVersion is what the toolchain recorded.
func buildVersion() version {
	v := version{Version: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value
		}
	}
	return v
}
