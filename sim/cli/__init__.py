"""The commands: they parse options, call a study, print its report and write it. Imports all other rooms but `checks`."""
