// Command structure measures how the module in a folder is built: the lengths of
// functions and files, the imports between its packages, the width of its
// interfaces, and how much of what is exported has a doc comment. It counts Go
// files that are neither tests nor generated.
//
//	structure [-outliers] DIR [PROGRAM…]
//
// Programs narrow it to the packages that they link.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "structure:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("structure", flag.ContinueOnError)
	outliers := flags.Bool("outliers", false, "list the longest functions and the packages with the most imports")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("name the module's folder")
	}
	m, err := measure(flags.Arg(0), flags.Args()[1:])
	if err != nil {
		return err
	}
	m.print(out)
	if *outliers {
		m.printOutliers(out)
	}
	return nil
}

// pkg is what go list says of a package.
type pkg struct {
	ImportPath, Dir string
	Module          *struct{ Path string }
	GoFiles         []string
	CgoFiles        []string
	Imports         []string
}

// named is a measured thing.
type named struct {
	name string
	n    int
}

type figures struct {
	lines      int
	functions  []named
	files      []named
	interfaces []named
	fanOut     []named
	depth      int
	exported   int
	documented int
}

func measure(dir string, programs []string) (*figures, error) {
	packages, err := list(dir, programs)
	if err != nil {
		return nil, err
	}
	f := &figures{}
	imports := map[string][]string{}
	for _, p := range packages {
		for _, imported := range p.Imports {
			if packages[imported] != nil {
				imports[p.ImportPath] = append(imports[p.ImportPath], imported)
			}
		}
		f.fanOut = append(f.fanOut, named{p.ImportPath, len(imports[p.ImportPath])})
		for _, file := range append(p.GoFiles, p.CgoFiles...) {
			if err := f.add(p, file); err != nil {
				return nil, err
			}
		}
	}
	known := map[string]int{}
	for path := range packages {
		f.depth = max(f.depth, depth(path, imports, known))
	}
	return f, nil
}

// list gives the module's packages, by path; with programs, those they link.
func list(dir string, programs []string) (map[string]*pkg, error) {
	args := []string{"list", "-json=ImportPath,Dir,Module,GoFiles,CgoFiles,Imports"}
	if len(programs) == 0 {
		args = append(args, "./...")
	} else {
		args = append(append(args, "-deps"), programs...)
	}
	command := exec.Command("go", args...)
	command.Dir = dir
	var stderr bytes.Buffer
	command.Stderr = &stderr
	raw, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, stderr.String())
	}
	own, err := modulePath(dir)
	if err != nil {
		return nil, err
	}
	packages := map[string]*pkg{}
	for dec := json.NewDecoder(bytes.NewReader(raw)); dec.More(); {
		p := &pkg{}
		if err := dec.Decode(p); err != nil {
			return nil, err
		}
		if p.Module != nil && p.Module.Path == own && len(p.GoFiles)+len(p.CgoFiles) > 0 {
			packages[p.ImportPath] = p
		}
	}
	return packages, nil
}

func modulePath(dir string) (string, error) {
	command := exec.Command("go", "list", "-m")
	command.Dir = dir
	raw, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("go list -m: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// depth gives the number of packages on the longest way down from path.
func depth(path string, imports map[string][]string, known map[string]int) int {
	if d, ok := known[path]; ok {
		return d
	}
	d := 0
	for _, next := range imports[path] {
		d = max(d, depth(next, imports, known))
	}
	known[path] = d + 1
	return d + 1
}

func (f *figures) add(p *pkg, name string) error {
	path := filepath.Join(p.Dir, name)
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if ast.IsGenerated(file) {
		return nil
	}
	lines := set.File(file.FileStart).LineCount()
	f.lines += lines
	f.files = append(f.files, named{p.ImportPath + "/" + name, lines})
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			length := set.Position(d.End()).Line - set.Position(d.Pos()).Line + 1
			f.functions = append(f.functions, named{p.ImportPath + "/" + name + " " + d.Name.Name, length})
			if d.Name.IsExported() && (d.Recv == nil || ast.IsExported(receiver(d.Recv.List[0].Type))) {
				f.count(d.Doc != nil)
			}
		case *ast.GenDecl:
			f.addSpecs(p, d)
		}
	}
	return nil
}

func (f *figures) count(documented bool) {
	f.exported++
	if documented {
		f.documented++
	}
}

func (f *figures) addSpecs(p *pkg, d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() {
				f.count(d.Doc != nil || s.Doc != nil || s.Comment != nil)
			}
			if i, ok := s.Type.(*ast.InterfaceType); ok {
				f.interfaces = append(f.interfaces, named{p.ImportPath + "." + s.Name.Name, methods(i)})
			}
		case *ast.ValueSpec:
			for _, name := range s.Names {
				if name.IsExported() {
					f.count(d.Doc != nil || s.Doc != nil || s.Comment != nil)
				}
			}
		}
	}
}

// methods counts those written down; one that is embedded counts for itself.
func methods(i *ast.InterfaceType) int {
	n := 0
	for _, field := range i.Methods.List {
		n += max(1, len(field.Names))
	}
	return n
}

func receiver(of ast.Expr) string {
	for {
		switch e := of.(type) {
		case *ast.StarExpr:
			of = e.X
		case *ast.IndexExpr:
			of = e.X
		case *ast.IndexListExpr:
			of = e.X
		case *ast.Ident:
			return e.Name
		default:
			return ""
		}
	}
}

func (f *figures) print(out io.Writer) {
	functions, files, interfaces := sorted(f.functions), sorted(f.files), sorted(f.interfaces)
	long := 0
	for _, function := range functions {
		if function.n > 60 {
			long++
		}
	}
	fan := sorted(f.fanOut)
	fmt.Fprintf(out, "Go lines / packages           %.1fk / %d\n", float64(f.lines)/1000, len(f.fanOut))
	fmt.Fprintf(out, "Function median / p90 / p99   %d/%d/%d\n", at(functions, .5), at(functions, .9), at(functions, .99))
	fmt.Fprintf(out, "Functions over 60 lines       %.1f%% (%d of %d)\n", percent(long, len(functions)), long, len(functions))
	fmt.Fprintf(out, "File median / p90             %d/%d\n", at(files, .5), at(files, .9))
	fmt.Fprintf(out, "Import depth / max fan-out    %d/%d\n", f.depth, at(fan, 1))
	fmt.Fprintf(out, "Interface methods median/max  %d/%d\n", at(interfaces, .5), at(interfaces, 1))
	fmt.Fprintf(out, "Exported names documented     %.0f%% (%d of %d)\n", percent(f.documented, f.exported), f.documented, f.exported)
}

func (f *figures) printOutliers(out io.Writer) {
	for _, group := range []struct {
		title string
		list  []named
		least int
	}{
		{"Functions over 60 lines", f.functions, 61},
		{"Functions of 41 to 60 lines", slices.DeleteFunc(slices.Clone(f.functions), func(n named) bool { return n.n > 60 }), 41},
		{"Files over 400 lines", f.files, 401},
		{"Packages that import more than 10 of ours", f.fanOut, 11},
		{"Interfaces of more than 5 methods", f.interfaces, 6},
	} {
		fmt.Fprintf(out, "\n%s:\n", group.title)
		list := sorted(group.list)
		slices.Reverse(list)
		for _, item := range list {
			if item.n >= group.least {
				fmt.Fprintf(out, "  %4d  %s\n", item.n, item.name)
			}
		}
	}
}

func sorted(list []named) []named {
	return slices.SortedFunc(slices.Values(list), func(a, b named) int { return cmp.Or(cmp.Compare(a.n, b.n), cmp.Compare(a.name, b.name)) })
}

// at gives the quantile q of a sorted list.
func at(list []named, q float64) int {
	if len(list) == 0 {
		return 0
	}
	return list[int(q*float64(len(list)-1))].n
}

func percent(part, whole int) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}
