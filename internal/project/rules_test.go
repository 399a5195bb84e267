package project

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/authsec-ai/icp"

// root is the top folder of the tree.
const root = "../.."

// TestPackageDocs checks that every package has exactly one doc comment.
func TestPackageDocs(t *testing.T) {
	documented := map[string][]string{}
	walkGo(t, func(path string) {
		folder := filepath.Dir(path)
		if _, seen := documented[folder]; !seen {
			documented[folder] = nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if file.Doc != nil {
			documented[folder] = append(documented[folder], filepath.Base(path))
		}
	})
	for folder, files := range documented {
		if len(files) != 1 {
			t.Errorf("package %s has %d doc comments (%s), want one", folder, len(files), strings.Join(files, ", "))
		}
	}
}

// walkGo visits every Go file that is no test.
func walkGo(t *testing.T, visit func(path string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin"):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			visit(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// forbidden lists, per program, what it must not link, and why it would be wrong.
var forbidden = map[string]map[string]string{
	"icp-agent": {
		"modernc.org/sqlite":          "the agent has no database",
		"github.com/jackc/pgx/v5":     "the agent has no database",
		"github.com/labstack/echo/v4": "the agent serves no REST",
		module + "/server":            "agent and server share only the wire",
		module + "/proxy":             "agent and proxy share nothing but policy",
	},
	"agentauth-proxy": {
		"modernc.org/sqlite":                     "the proxy has no database",
		"github.com/jackc/pgx/v5":                "the proxy has no database",
		"github.com/labstack/echo/v4":            "the proxy's handler is its own",
		"github.com/envoyproxy/go-control-plane": "the proxy speaks no xDS",
		"k8s.io/client-go":                       "the proxy knows no Kubernetes",
		module + "/server":                       "the proxy is a client of the server",
		module + "/agent":                        "the proxy uses any Workload API",
	},
	"icp-server": {
		module + "/agent": "the server never attests workloads itself",
		module + "/proxy": "the server forwards nothing",
	},
	"spiffe-conform": {
		module + "/server":                           "a judge shares nothing with whom it judges",
		module + "/agent":                            "a judge shares nothing with whom it judges",
		module + "/proxy":                            "a judge shares nothing with whom it judges",
		module + "/sds":                              "a judge shares nothing with whom it judges",
		module + "/policy":                           "a judge shares nothing with whom it judges",
		module + "/identity":                         "it has its own readers of certificates and tokens",
		module + "/internal":                         "a judge shares nothing with whom it judges",
		module + "/cmd/internal":                     "a judge shares nothing with whom it judges",
		module + "/cmd/icp":                          "a judge shares nothing with whom it judges",
		"github.com/go-jose/go-jose/v4":              "it has its own reader of tokens",
		"github.com/spiffe/go-spiffe/v2/svid":        "it has its own readers of certificates and tokens",
		"github.com/spiffe/go-spiffe/v2/bundle":      "it has its own readers of bundles",
		"github.com/spiffe/go-spiffe/v2/workloadapi": "it speaks the published protocol by itself",
	},
}

// TestLinks checks what each program links.
func TestLinks(t *testing.T) {
	for program, rules := range forbidden {
		t.Run(program, func(t *testing.T) {
			linked := dependencies(t, "./cmd/"+program)
			if len(linked) < 50 {
				t.Fatalf("only %d packages listed: the check sees nothing", len(linked))
			}
			for _, pkg := range linked {
				for prefix, why := range rules {
					if pkg == prefix || strings.HasPrefix(pkg, prefix+"/") {
						t.Errorf("%s links %s, but %s", program, pkg, why)
					}
				}
			}
		})
	}
}

func dependencies(t *testing.T, pkg string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", pkg, err)
	}
	return strings.Fields(string(out))
}

// layers orders the tree: a package may import only what stands further right.
// server, agent and proxy never import each other.
var layers = []string{"cmd", "server", "agent", "proxy", "sds", "internal", "policy", "identity"}

// TestImportDirection checks that imports of our own packages point one way.
func TestImportDirection(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./cmd/...", "./server/...", "./agent/...",
		"./proxy/...", "./sds/...", "./policy/...", "./identity/...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); seen++ {
		var pkg struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&pkg); err != nil {
			t.Fatal(err)
		}
		for _, imported := range pkg.Imports {
			if why := wrongWay(pkg.ImportPath, imported); why != "" {
				t.Errorf("%s imports %s: %s", pkg.ImportPath, imported, why)
			}
		}
	}
	if seen < 10 {
		t.Fatalf("only %d packages listed: the check sees nothing", seen)
	}
}

func TestWrongWayFires(t *testing.T) {
	if wrongWay(module+"/agent/cache", module+"/server/ca") == "" {
		t.Error("agent importing server passed")
	}
	if wrongWay(module+"/policy", module+"/proxy") == "" {
		t.Error("policy importing proxy passed")
	}
	if why := wrongWay(module+"/proxy", module+"/policy"); why != "" {
		t.Errorf("proxy importing policy refused: %s", why)
	}
}

func wrongWay(from, to string) string {
	a, b := layer(from), layer(to)
	if a < 0 || b < 0 || a == b {
		return ""
	}
	parts := map[string]bool{"server": true, "agent": true, "proxy": true}
	if parts[layers[a]] && parts[layers[b]] {
		return "server, agent and proxy never import each other"
	}
	if b < a && layers[b] != "internal" {
		return "imports point from cmd towards identity"
	}
	return ""
}

func layer(pkg string) int {
	rest, ok := strings.CutPrefix(pkg, module+"/")
	if !ok {
		return -1
	}
	top, _, _ := strings.Cut(rest, "/")
	for i, name := range layers {
		if name == top {
			return i
		}
	}
	return -1
}

// TestOneWordOnePlace refuses the package names that say nothing.
func TestOneWordOnePlace(t *testing.T) {
	empty := map[string]bool{"util": true, "utils": true, "common": true, "helpers": true, "types": true, "misc": true}
	walkGo(t, func(path string) {
		if name := filepath.Base(filepath.Dir(path)); empty[name] {
			t.Errorf("%s: a package called %s does not say what belongs in it", path, name)
		}
	})
}

// TestPolicyDoesNoIO checks that the files of package policy import nothing
// that reads or writes outside the process, and no clock.
func TestPolicyDoesNoIO(t *testing.T) {
	forbidden := []string{"os", "net", "net/http", "io/fs", "os/exec", "syscall", "database/sql", "log", "log/slog", "time"}
	seen := 0
	for _, imported := range importsOf(t, filepath.Join(root, "policy")) {
		seen++
		if slices.Contains(forbidden, imported) {
			t.Errorf("package policy imports %s: deciding needs no I/O and no clock", imported)
		}
	}
	if seen < 5 {
		t.Fatalf("only %d imports found: the check sees nothing", seen)
	}
}

func importsOf(t *testing.T, dir string) []string {
	t.Helper()
	var imports []string
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			imports = append(imports, strings.Trim(spec.Path.Value, `"`))
		}
	}
	return imports
}
