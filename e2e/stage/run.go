package stage

import (
	"fmt"
	"os"
	"strings"
)

// What the stage starts and makes carries the run's name, so that a check can
// find what is left: processes have it in their environment, folders and control
// groups in their names.
const runVariable = "ICP_STAGE_RUN"

// RunID names this run: from ICP_STAGE_RUN, which several test binaries may
// share, or else of this process alone. Letters, digits and '_'.
func RunID() string { return os.Getenv(runVariable) }

// prefix begins the names of folders and control groups of a run.
func prefix(run string) string { return "icp-" + run + "-" }

func init() {
	if RunID() == "" {
		os.Setenv(runVariable, fmt.Sprintf("p%d", os.Getpid()))
	}
	if strings.Trim(RunID(), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		fmt.Fprintf(os.Stderr, "%s is %q: use letters, digits and '_'\n", runVariable, RunID())
		os.Exit(2)
	}
	if role, ok := roles[os.Getenv(roleVariable)]; ok {
		role()
		os.Exit(0)
	}
}

// roleVariable has the stage start its own program again, for one of these.
const roleVariable = "ICP_STAGE_ROLE"

var roles = map[string]func(){
	"keeper":  keep,
	"machine": runMachine,
}
