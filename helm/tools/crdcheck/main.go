// crdcheck reads Kubernetes manifests as one YAML stream on standard input and decodes every ServiceMonitor,
// PrometheusRule and ScaledObject strictly into the Go types of its operator, so that a misspelt or misplaced field
// is an error here and not a field that the API server silently drops. Other kinds are passed over.
// It prints one line per checked object and exits with 1 if any object is wrong.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"

	keda "github.com/kedacore/keda/v2/apis/keda/v1alpha1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	yamlstream "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

type object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
}

// target gives the typed object to decode into, or nil for a kind that is checked elsewhere.
func target(head object) any {
	switch head.APIVersion + " " + head.Kind {
	case "monitoring.coreos.com/v1 ServiceMonitor":
		return &monitoring.ServiceMonitor{}
	case "monitoring.coreos.com/v1 PrometheusRule":
		return &monitoring.PrometheusRule{}
	case "keda.sh/v1alpha1 ScaledObject":
		return &keda.ScaledObject{}
	}
	return nil
}

func check(document []byte) (line string, ok bool) {
	var head object
	if err := yaml.Unmarshal(document, &head); err != nil {
		return "ERROR not YAML: " + err.Error(), false
	}
	into := target(head)
	if into == nil {
		return "", true
	}
	name := head.Kind + "/" + head.Metadata.Name
	if err := yaml.UnmarshalStrict(document, into); err != nil {
		return "ERROR " + name + ": " + err.Error(), false
	}
	return "OK " + name, true
}

func main() {
	reader := yamlstream.NewYAMLReader(bufio.NewReader(os.Stdin))
	failed := false
	for {
		document, err := reader.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			fmt.Println("ERROR", err)
			os.Exit(1)
		}
		line, ok := check(document)
		if line != "" {
			fmt.Println(line)
		}
		failed = failed || !ok
	}
	if failed {
		os.Exit(1)
	}
}
