// Command helm lints and renders the chart with Helm's own library: no cluster is asked.
// It stands in a module of its own, so that the product's go.mod holds only what the
// product links.
//
//	go run . -chart DIR [-values FILE] [-set KEY=VALUE]... [-templates DIR] [-namespace NAME] [-release NAME]
//
// It writes the objects in the order in which they are to be made.
package main

import (
	"flag"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"helm.sh/helm/v4/pkg/strvals"
	"sigs.k8s.io/yaml"
)

// order is that of Helm, for the kinds that the chart has; others come last.
var order = [...]string{
	"Namespace", "PodDisruptionBudget", "ServiceAccount", "ConfigMap", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding",
	"Role", "RoleBinding", "Service", "DaemonSet", "Deployment", "IngressClass",
}

type options struct {
	chart, values, templates, namespace, release string
	set                                          []string
	notes                                        bool
}

func main() {
	var o options
	flag.StringVar(&o.chart, "chart", "", "the chart's directory")
	flag.StringVar(&o.values, "values", "", "file with values beside the chart's own")
	flag.StringVar(&o.templates, "templates", "", "only templates in this directory of templates/")
	flag.StringVar(&o.namespace, "namespace", "vrouter-system", "of the release")
	flag.StringVar(&o.release, "release", "vrouter", "its name")
	flag.BoolVar(&o.notes, "notes", false, "write what Helm tells after an installation instead")
	flag.Func("set", "KEY=VALUE as helm takes it; may be repeated", func(s string) error {
		o.set = append(o.set, s)
		return nil
	})
	flag.Parse()
	out, err := render(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "helm:", err)
		os.Exit(1)
	}
	fmt.Print(out)
}

// render lints the chart and renders it with the options' values.
func render(o options) (string, error) {
	values := map[string]any{}
	if o.values != "" {
		b, err := os.ReadFile(o.values)
		if err != nil {
			return "", err
		}
		if err := yaml.UnmarshalStrict(b, &values); err != nil {
			return "", fmt.Errorf("%s: %w", o.values, err)
		}
	}
	for _, s := range o.set {
		if err := strvals.ParseInto(s, values); err != nil {
			return "", fmt.Errorf("-set %s: %w", s, err)
		}
	}
	for _, m := range lint.RunAll(o.chart, values, o.namespace).Messages {
		if m.Severity >= support.WarningSev {
			return "", fmt.Errorf("lint: %s", m.Error())
		}
	}
	chart, err := loader.LoadDir(o.chart)
	if err != nil {
		return "", err
	}
	top, err := util.ToRenderValues(chart, values, common.ReleaseOptions{Name: o.release, Namespace: o.namespace, Revision: 1, IsInstall: true}, nil)
	if err != nil {
		return "", err
	}
	files, err := engine.Engine{Strict: true}.Render(chart, top)
	if err != nil {
		return "", err
	}
	if o.notes {
		return files[path.Join(chart.Name(), "templates/NOTES.txt")], nil
	}
	for _, crd := range chart.CRDObjects() {
		files[path.Join(chart.Name(), "templates", "crds", crd.Name)] = string(crd.File.Data)
	}
	return join(files, path.Join(chart.Name(), "templates", o.templates))
}

// document is one object of the output.
type document struct{ kind, name, text string }

// join puts the objects of the files under a directory in order.
func join(files map[string]string, under string) (string, error) {
	var list []document
	for name, text := range files {
		if !strings.HasPrefix(name, under+"/") || path.Ext(name) != ".yaml" {
			continue
		}
		for _, part := range strings.Split("\n"+text, "\n---") {
			var object struct {
				Kind     string
				Metadata struct{ Name, Namespace string }
			}
			if err := yaml.Unmarshal([]byte(part), &object); err != nil {
				return "", fmt.Errorf("%s: %w", name, err)
			}
			if object.Kind != "" {
				list = append(list, document{object.Kind, object.Metadata.Namespace + "/" + object.Metadata.Name, strings.TrimSpace(part) + "\n"})
			}
		}
	}
	slices.SortFunc(list, func(a, b document) int {
		if d := rank(a.kind) - rank(b.kind); d != 0 {
			return d
		}
		return strings.Compare(a.kind+a.name, b.kind+b.name)
	})
	var out strings.Builder
	for i, d := range list {
		if i > 0 {
			out.WriteString("---\n")
		}
		out.WriteString(d.text)
	}
	return out.String(), nil
}

func rank(kind string) int {
	if i := slices.Index(order[:], kind); i >= 0 {
		return i
	}
	return len(order)
}
