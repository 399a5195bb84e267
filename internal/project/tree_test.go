package project

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// tree is what the Go files of the project declare, for pages that name it.
type tree struct {
	packages map[string]map[string]bool // package name → Name, Type.Name, and Name of every method and field
	tests    map[string]bool            // functions that go test runs
	files    map[string]bool            // base names
	text     string                     // of all tests and of what they are made of
}

var parseTree = sync.OnceValues(func() (*tree, error) {
	tr := &tree{packages: map[string]map[string]bool{}, tests: map[string]bool{}, files: map[string]bool{}}
	return tr, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		tr.files[d.Name()] = true
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		return tr.add(path)
	})
})

// readTree parses the project once.
func readTree(t *testing.T) *tree {
	t.Helper()
	tr, err := parseTree()
	if err != nil {
		t.Fatal(err)
	}
	if len(tr.packages) < 40 || len(tr.tests) < 200 {
		t.Fatalf("only %d packages and %d tests found: the check sees nothing", len(tr.packages), len(tr.tests))
	}
	return tr
}

func (tr *tree) add(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := parser.ParseFile(token.NewFileSet(), path, raw, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	isTest := strings.HasSuffix(path, "_test.go")
	if isTest || strings.Contains(path, "/corpus/") || strings.Contains(path, "/storetest/") || strings.Contains(path, "/e2e/") {
		tr.text += string(raw)
	}
	name := strings.TrimSuffix(file.Name.Name, "_test")
	if name == "main" {
		name = filepath.Base(filepath.Dir(path))
	}
	if tr.packages[name] == nil {
		tr.packages[name] = map[string]bool{}
	}
	for _, decl := range file.Decls {
		tr.declare(tr.packages[name], decl, isTest)
	}
	return nil
}

func (tr *tree) declare(names map[string]bool, decl ast.Decl, isTest bool) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		names[d.Name.Name] = true
		if d.Recv != nil {
			names[receiver(d.Recv.List[0].Type)+"."+d.Name.Name] = true
		} else if isTest && testName.MatchString(d.Name.Name) {
			tr.tests[d.Name.Name] = true
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			declareSpec(names, spec)
		}
	}
}

func declareSpec(names map[string]bool, spec ast.Spec) {
	switch s := spec.(type) {
	case *ast.ValueSpec:
		for _, n := range s.Names {
			names[n.Name] = true
		}
	case *ast.TypeSpec:
		names[s.Name.Name] = true
		var fields *ast.FieldList
		switch of := s.Type.(type) {
		case *ast.StructType:
			fields = of.Fields
		case *ast.InterfaceType:
			fields = of.Methods
		default:
			return
		}
		for _, field := range fields.List {
			for _, n := range field.Names {
				names[s.Name.Name+"."+n.Name] = true
			}
		}
	}
}

func receiver(of ast.Expr) string {
	for {
		switch e := of.(type) {
		case *ast.StarExpr:
			of = e.X
		case *ast.IndexExpr:
			of = e.X
		case *ast.Ident:
			return e.Name
		default:
			return ""
		}
	}
}

var (
	testName  = regexp.MustCompile(`^(Test|Fuzz|Benchmark)[A-Z]\w*$`)
	code      = regexp.MustCompile("`([^`\n]+)`")
	filePath  = regexp.MustCompile(`^[\w.{},*-]+(/[\w.{},*-]+)+/?$`)
	fileName  = regexp.MustCompile(`^[\w-]+\.(go|md|yaml|sql|py|sh|golden|json)$`)
	qualified = regexp.MustCompile(`^([a-z]\w*)\.(\w+(\.\w+)?)$`)
)

// missing says why a term that a page shows as code does not exist; "" if it
// does, or if it is no name of code.
func (tr *tree) missing(term string) string {
	term = strings.TrimSuffix(strings.TrimSuffix(term, "()"), "(ctx)")
	test, _, _ := strings.Cut(term, "/")
	switch {
	case testName.MatchString(test):
		if !tr.tests[test] {
			return "there is no such test"
		}
	case fileName.MatchString(term):
		if !tr.files[term] {
			return "there is no such file"
		}
	case filePath.MatchString(term):
		if _, err := os.Stat(filepath.Join(root, term)); err != nil {
			return "there is no such path"
		}
	case qualified.MatchString(term):
		parts := qualified.FindStringSubmatch(term)
		names, ok := tr.packages[parts[1]]
		if !ok {
			return "there is no package " + parts[1]
		}
		if !names[parts[2]] {
			return "package " + parts[1] + " declares no " + parts[2]
		}
	}
	return ""
}

func readPage(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
