require "fileutils"
require "json"
require "timeout"

# Says at the end of `vagrant up`, `provision` and `reload` where the time went, and writes it to .cache/timing.json.
module Timing
  ANSIBLE = "/run/users-ansible.json".freeze # where the VM has the seconds of Ansible's installation
  PLAYBOOK = "/run/users-playbook.json".freeze # and those of the playbook: ansible/callback_plugins/timing.py
  PATIENCE = 20 # seconds

  module_function

  def now
    Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end

  def start
    @start = now
  end

  # What the VM has not measured is Vagrant's part: the VM's start, and the way there.
  def report(machine)
    return unless machine.state.id == :running

    all = now - @start
    inside = measured(machine, all.ceil)
    parts = { "Vagrant and the VM" => all - inside.values_at("ansible", "playbook").compact.sum,
              "Ansible's installation" => inside["ansible"], "playbook" => inside["playbook"] }.compact
    parts.transform_values!(&:round)
    machine.ui.info("#{all.round} s in all: #{parts.map { |name, seconds| "#{name} #{seconds}" }.join(', ')}.")

    file = File.join(Settings::ROOT, ".cache/timing.json")
    FileUtils.mkdir_p(File.dirname(file))
    report = { "seconds" => all.round, "parts" => parts, "steps" => inside["steps"] || {}, "each" => inside["each"] || {} }
    File.write(file, "#{JSON.pretty_generate(report)}\n")
  rescue StandardError => e
    machine.ui.warn("Where the time went is not known: #{e.message.strip.lines.last.to_s.strip}.")
  end

  # What was written in the VM in these last seconds; what is older is of an earlier command.
  def measured(machine, seconds)
    said = +""
    Timeout.timeout(PATIENCE) do
      command = "find #{ANSIBLE} #{PLAYBOOK} -newermt '#{seconds} seconds ago' -exec cat {} + 2> /dev/null"
      machine.communicate.execute(command, error_check: false) { |stream, text| said << text if stream == :stdout }
    end
    said.lines.map { |line| JSON.parse(line) }.reduce({}, :merge)
  end
end
